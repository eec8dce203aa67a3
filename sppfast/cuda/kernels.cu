// Pooling, RoI align and their gradients on NVIDIA GPUs. docs/cuda.md tells how the kernels divide the work, and counts
// their bytes.
//
// One reduction (`Max`, `ArgMax`, `Mean`, `Peak`, `ArgPeak`: what a bin makes of its cells), one geometry (`bin_span`,
// `Samples`: which cells a bin has), and kernels that only bring the cells to the reductions. The rules are those of
// sppfast/plan.py, windows.py and cpu/taps.py, operation by operation: compile without contraction (--fmad=false).

typedef long long i64;

#ifdef SPPFAST_EMULATION
#include "emulation.h"
#else
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]

__device__ inline float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline unsigned short double_to_half(double value) {
    unsigned short bits;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(bits) : "d"(value));
    return bits;
}
#endif

// ---- what the host tells a kernel: see launch.py, which has the same fields ----------------------------------------

struct Call {
    // The maps: a table of rows (address, height, width, bytes from channel to channel, row to row, column to column),
    // or one such row for all, and the bytes from map to map.
    i64 maps_at, base, height, width, channel_step, row_step, column_step, batch_step, maps, channels;
    // The pyramid: a table of levels, finest first.
    i64 levels_at, levels, bins, rule;
    // The windows: rois of 4 or 5 numbers, the map of each, and where what is planned of them lies.
    i64 windows, rois_at, roi_fields, index_at, windows_at, rounding, status_at;
    double stride, offset;
    i64 aligned, sampling;
    // Rows of results or of their gradients: values, places of maxima, weights of the cells there; bytes from row to row.
    i64 values_at, values_step, places_at, places_step, weights_at, weights_step;
    // Maps brought into another layout: where they are, the first cell of each of different sizes, items of a cell.
    i64 packed_at, firsts_at, pitch;
    // How the work is divided: channels of a block; its bins (of planes: blocks of one); lanes, which are threads side
    // by side; parts of the windows and the bytes from one part's planes to the next one's; whether planes lie in shared
    // memory; cells of a tile, tiles of a map, and what is known of its tiles: states, so many for each.
    i64 group, chunk, lanes, parts, part_step, shared_planes, room, tiles, states_at, slots;
};

struct Level {
    int rows, columns, first, finer, tall, wide;  // as in plan.py
    int slot, slot_rows, slot_columns;  // of a tile's states: the first, and how many are enough for its bins
};

struct Map {
    const char* at;
    int height, width;
    i64 channel_step, row_step, column_step;
    __device__ inline i64 cells() const { return (i64)height * width; }
};

struct Window {
    i64 map;  // -1: not a window
    double y, height, x, width;  // starts and extents, in cells
};

enum Rule { ADAPTIVE, SLIDING, CAFFE, FAST_RCNN };
enum Rounding { SPPNET, ROUND_FAST_RCNN, CELLS, ALIGN };
enum Mode { MAX, ARGMAX, AVG, PEAK, ARGPEAK, MEAN };  // the last three are RoI align's

const double FAR = 536870912.0;  // 2^29 cells: further out than maps reach
const double VERY_FAR = 1267650600228229401496703205376.0;  // 2^100 cells
const double MANY = 2147483648.0;  // samples, more than are ever looked at
const unsigned FEW_SAMPLES = 8;  // are looked at without asking which lie in the map
const unsigned EXACT = 4194304;  // 2^22: so many and a half are exact in float32
const double ROUNDING = 2.4e-7;  // more than what arithmetic in float32 changes a number by
const double TINY = 1e-6;  // cells: in less nothing is looked for
const double SLACK = 3.0;  // samples, for the rounding of coordinates
const double FLOAT_MAX = 3.4028234663852886e38, DOUBLE_MAX = 1.7976931348623157e308;
const int THREADS = 256;
const int WARP = 32;
const int REACHES = 16;  // levels of which a block knows the bins that it has to do with
const int GATHER_THREADS = 128;  // of a block of `gather_means`, which needs many registers
const int GATHERED = 8;  // channels of a cell whose gradients a thread adds up
const int FEW_CELLS = 4;  // for each thread that reduces a bin, at least
const unsigned ALL = 0xffffffffu;

__device__ inline Map map_of(const Call& call, i64 n) {
    if (!call.maps_at)
        return {(const char*)call.base + n * call.batch_step, (int)call.height, (int)call.width,
                call.channel_step, call.row_step, call.column_step};
    const i64* row = (const i64*)call.maps_at + 6 * n;
    return {(const char*)row[0], (int)row[1], (int)row[2], row[3], row[4], row[5]};
}

__device__ inline const Level& level_of(const Call& call, int i) { return ((const Level*)call.levels_at)[i]; }

// The level that bin `bin` of all levels, in the order of their table, belongs to; `bin` becomes its number there.
__device__ inline const Level& level_of_bin(const Call& call, int& bin) {
    int i = 0;
    while (bin >= level_of(call, i).rows * level_of(call, i).columns) {
        bin -= level_of(call, i).rows * level_of(call, i).columns;
        i++;
    }
    return level_of(call, i);
}

template <class T>
__device__ inline T smaller(T a, T b) { return b < a ? b : a; }

template <class T>
__device__ inline T larger(T a, T b) { return b > a ? b : a; }

__device__ inline double clip(double value, double low, double high) {
    return value > low ? (value < high ? value : high) : low;  // NaN: low
}

template <class T>
__device__ inline T ceil_divide(T a, T b) { return a / b + (a % b != 0); }

// ---- numbers: items of a map, and what is computed with them --------------------------------------------------------

struct Half { unsigned short bits; };
struct BFloat { unsigned short bits; };

template <class T> struct Wide { typedef T type; };
template <> struct Wide<signed char> { typedef int type; };
template <> struct Wide<unsigned char> { typedef int type; };
template <> struct Wide<short> { typedef int type; };
template <> struct Wide<unsigned short> { typedef int type; };
template <> struct Wide<Half> { typedef float type; };
template <> struct Wide<BFloat> { typedef float type; };

template <class T>
__device__ inline typename Wide<T>::type widen(T item) { return item; }
__device__ inline float widen(Half item) { return half_to_float(item.bits); }
__device__ inline float widen(BFloat item) { return __uint_as_float((unsigned)item.bits << 16); }

template <class T>
__device__ inline T lowest();
template <> __device__ inline int lowest<int>() { return -2147483647 - 1; }
template <> __device__ inline unsigned lowest<unsigned>() { return 0; }
template <> __device__ inline i64 lowest<i64>() { return -9223372036854775807LL - 1; }
template <> __device__ inline unsigned long long lowest<unsigned long long>() { return 0; }
template <> __device__ inline float lowest<float>() { return -__int_as_float(0x7f800000); }
template <> __device__ inline double lowest<double>() { return lowest<float>(); }

template <class T>
__device__ inline bool is_nan(T value) { return value != value; }

// To what is stored, rounded once.
template <class T>
struct Narrow {
    template <class W>
    static __device__ inline T from(W value) { return (T)value; }
};
template <>
struct Narrow<Half> {
    template <class W>
    static __device__ inline Half from(W value) { return {double_to_half(value)}; }
};
template <>
struct Narrow<BFloat> {
    static __device__ inline BFloat from(double value) {
        float near = (float)value;
        if (fabs((double)near) > fabs(value)) near = __uint_as_float(__float_as_uint(near) - 1);
        unsigned bits = __float_as_uint(near) | (near != value);  // to odd, so that the second rounding is the only one
        if (value != value) return {0x7fc0};
        return {(unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
    }
};

// ---- reductions: what a bin makes of its cells ----------------------------------------------------------------------

template <class W>
struct Max {
    W value = lowest<W>();
    __device__ inline void add(W other, int) {
        if (other > value || is_nan(other)) value = other;
    }
    __device__ inline void merge(const Max& other) { add(other.value, 0); }
    __device__ inline Max shuffled(int mask) const { Max other; other.value = __shfl_xor_sync(ALL, value, mask); return other; }
    __device__ inline int place() const { return -1; }
    template <class Out>
    __device__ inline Out result(i64 cells) const {
        return Narrow<Out>::from(cells ? value + 0 : W(0));  // a maximum of -0.0 is +0.0
    }
};

template <class W>
struct ArgMax {
    W value = lowest<W>();
    int at = -1;
    __device__ inline void add(W other, int place) {
        bool same = other == value || (is_nan(other) && is_nan(value));
        bool beyond = other > value || (is_nan(other) && !is_nan(value));
        if (beyond || at < 0 || (same && place < at)) { value = other; at = place; }
    }
    __device__ inline void merge(const ArgMax& other) {
        if (other.at >= 0) add(other.value, other.at);
    }
    __device__ inline ArgMax shuffled(int mask) const {
        ArgMax other;
        other.value = __shfl_xor_sync(ALL, value, mask);
        other.at = __shfl_xor_sync(ALL, at, mask);
        return other;
    }
    __device__ inline int place() const { return at; }
    template <class Out>
    __device__ inline Out result(i64 cells) const {
        return Narrow<Out>::from(cells ? value + 0 : W(0));
    }
};

template <class W>
struct Mean {
    double sum = 0;
    __device__ inline void add(W other, int) { sum += (double)other; }
    __device__ inline void merge(const Mean& other) { sum += other.sum; }
    __device__ inline Mean shuffled(int mask) const { Mean other; other.sum = __shfl_xor_sync(ALL, sum, mask); return other; }
    __device__ inline int place() const { return -1; }
    template <class Out>
    __device__ inline Out result(i64 cells) const { return Narrow<Out>::from(cells ? sum / (double)cells : 0.0); }
    __device__ inline void add_weighted(double value, double weight, int) { sum = fma(value, weight, sum); }
    __device__ inline void add_outside() {}
};

// RoI align's maximum: the largest weighted cell, and for its gradient the weight and the place.
struct Peak {
    double value = lowest<double>(), weight = 0;
    int at = -1;
    __device__ inline void add_weighted(double other, double by, int place) {
        double product = other * by;
        if (product > value || (is_nan(product) && !is_nan(value))) { value = product; weight = by; at = place; }
    }
    __device__ inline void add_outside() {
        if (0 > value) { value = 0; weight = 0; at = -1; }
    }
    __device__ inline int place() const { return at; }
};
template <class W>
struct PeakValue : Peak {
    template <class Out>
    __device__ inline Out result(i64 samples) const { return Narrow<Out>::from(samples ? value : 0.0); }
};
template <class W>
struct PeakPlace : Peak {
    template <class Out>
    __device__ inline Out result(i64) const { return Narrow<Out>::from(weight); }
};

template <class T> struct MeanOf { typedef double type; };  // the dtype of a mean
template <> struct MeanOf<float> { typedef float type; };
template <> struct MeanOf<Half> { typedef Half type; };
template <> struct MeanOf<BFloat> { typedef BFloat type; };
template <> struct MeanOf<signed char> { typedef float type; };
template <> struct MeanOf<unsigned char> { typedef float type; };
template <> struct MeanOf<short> { typedef float type; };
template <> struct MeanOf<unsigned short> { typedef float type; };

template <class T, int mode> struct Reduction;
template <class T> struct Reduction<T, MAX> { typedef Max<typename Wide<T>::type> State; typedef T Out; };
template <class T> struct Reduction<T, ARGMAX> { typedef ArgMax<typename Wide<T>::type> State; typedef T Out; };
template <class T> struct Reduction<T, AVG> { typedef Mean<typename Wide<T>::type> State; typedef typename MeanOf<T>::type Out; };
template <class T> struct Reduction<T, MEAN> { typedef Mean<typename Wide<T>::type> State; typedef typename MeanOf<T>::type Out; };
template <class T> struct Reduction<T, PEAK> { typedef PeakValue<typename Wide<T>::type> State; typedef typename MeanOf<T>::type Out; };
template <class T> struct Reduction<T, ARGPEAK> { typedef PeakPlace<typename Wide<T>::type> State; typedef T Out; };

__host__ __device__ constexpr bool has_places(int mode) { return mode == ARGMAX || mode == ARGPEAK; }
__host__ __device__ constexpr bool is_align(int mode) { return mode == MEAN || mode == PEAK || mode == ARGPEAK; }

// Where a value and its place go: the row of a window, then level, channel, row, column.
template <class Out, int mode>
__device__ inline void write_bin(const Call& call, i64 row, i64 item, Out value, int place) {
    ((Out*)(call.values_at + row * call.values_step))[item] = value;
    if (has_places(mode)) ((int*)(call.places_at + row * call.places_step))[item] = place;
}

// ---- geometry: the cells of a bin -----------------------------------------------------------------------------------

struct Axis {
    int start, extent, limit, rule;
};

struct Span {
    int first, stop;
    __device__ inline int size() const { return larger(stop - first, 0); }
    __device__ inline bool has(int cell) const { return first <= cell && cell < stop; }
};

// Bin i of n of an axis, as `bin_edges` has it, without what lies outside the map.
__device__ inline Span bin_span(const Axis& axis, int n, int i) {
    i64 length = axis.extent, first, stop;
    if (axis.rule == ADAPTIVE) {
        if (length * n + n < 4294967296LL) {  // 32 bits divide several times as fast
            first = (unsigned)i * (unsigned)length / (unsigned)n;
            stop = ((unsigned)(i + 1) * (unsigned)length + n - 1) / (unsigned)n;
        } else {
            first = i * length / n;
            stop = ((i + 1LL) * length + n - 1) / n;
        }
    } else if (axis.rule == FAST_RCNN) {
        float portion = (float)length / (float)n;
        first = (i64)floorf((float)i * portion);
        stop = (i64)ceilf((float)(i + 1) * portion);
    } else {
        i64 size = ceil_divide(length, (i64)n);
        i64 step = axis.rule == SLIDING ? length / n : size;
        first = i * step - (axis.rule == SLIDING ? 0 : (size * n - length + 1) / 2);
        stop = first + size;
    }
    first = smaller(larger(first + axis.start, (i64)0), (i64)axis.limit);
    return {(int)first, (int)smaller(larger(stop + axis.start, first), (i64)axis.limit)};
}

// The bins of n that have a cell: they lie together, for starts and stops never fall.
__device__ inline Span bins_with(const Axis& axis, int n, int cell) {
    float guess = (float)((double)cell - axis.start) / (float)larger(axis.extent, 1) * (float)n;
    int first = (int)clip((double)guess, 0, n - 1.0);
    while (first > 0 && bin_span(axis, n, first - 1).stop > cell) first--;
    while (first < n && bin_span(axis, n, first).stop <= cell) first++;
    int stop = first;
    while (stop < n && bin_span(axis, n, stop).first <= cell) stop++;
    return {first, stop};
}

// More than what rounding moves a coordinate by, in cells.
__device__ inline double rounding_error(double begin, double extent) { return (fabs(begin) + extent) * ROUNDING; }

// The samples of a bin along an axis for RoI align, computed in R; those before `first` and from `stop` lie outside.
template <class R>
struct Samples {
    R base, size;
    unsigned count, first, stop;
    int side;
    __device__ inline Samples(double begin, double extent, int n, int i, int sampling, int side_, double low, double high) {
        side = side_;
        size = (R)extent / (R)n;
        base = (R)begin + (R)i * size;
        count = sampling ? (unsigned)sampling : (unsigned)ceil(larger(smaller((double)size, MANY), 0.0));
        first = 0;
        stop = count;
        if (size > TINY && count > FEW_SAMPLES) {
            double of_cell = (float)count / (float)size;
            double slack = SLACK + (double)count * ROUNDING + of_cell * rounding_error(base, size);
            first = (unsigned)clip((low - (double)base) * of_cell - slack, 0, MANY);
            stop = (unsigned)clip((high - (double)base) * of_cell + slack, 0, (double)count);
        }
    }
    struct Tap {
        bool inside;
        int low, high;
        double low_weight, high_weight;
    };
    __device__ inline Tap tap(unsigned k) const {
        R moved = count < EXACT ? ((R)k + (R)0.5) * size : (R)(((double)k + 0.5) * (double)size);
        R at = base + (count < EXACT ? moved / (R)count : (R)((double)moved / (double)count));
        Tap t = {at >= -1 && (double)at <= (double)side, 0, 0, 0, 0};
        if (!t.inside) return t;
        at = larger(at, (R)0);
        t.low = smaller((int)at, side - 1);
        t.high = smaller(t.low + 1, side - 1);
        R fraction = t.low == t.high ? (R)0 : at - (R)t.low;
        t.low_weight = (double)((R)1 - fraction);
        t.high_weight = (double)fraction;
        return t;
    }
};

template <class R>
__device__ inline Samples<R> samples_in(double begin, double extent, int n, int i, int sampling, int side) {
    return Samples<R>(begin, extent, n, i, sampling, side, -1.0, (double)side);
}

// ---- windows: from pixels to cells ----------------------------------------------------------------------------------

template <class R>
__device__ inline R finite(double value);
template <> __device__ inline float finite<float>(double value) { return (float)clip(value, -FLOAT_MAX, FLOAT_MAX); }
template <> __device__ inline double finite<double>(double value) { return clip(value, -DOUBLE_MAX, DOUBLE_MAX); }

// Pixels to cells, every step in R.
template <class R>
__device__ inline R scaled(double pixel, double stride, double offset) {
    R scale = finite<R>(1.0 / stride);
    R shifted = (R)(finite<R>(pixel) - finite<R>(offset));
    R moved = finite<R>((double)shifted);
    R cell = (R)(moved * scale);
    return finite<R>((double)cell);
}

__device__ inline double round_half_away(float value) {
    float whole = truncf(value);
    return (double)whole + (fabsf(value - whole) >= 0.5f ? (value < 0 ? -1.0 : 1.0) : 0.0);
}

struct Range { double start, extent; };

__device__ inline Range sppnet_range(double a, double b, double stride, double offset, double side) {
    double low = floor((a - offset) / stride) + 1, high = ceil((b - offset) / stride) - 1;
    if (low > high) low = high = floor((low + high) / 2);
    low = clip(low, 0, side - 1);
    high = clip(high, 0, side - 1);
    return {low, high + 1 - low};
}

__device__ inline Range fast_rcnn_range(double a, double b, double stride, double offset) {
    float low = (float)clip(scaled<float>(a, stride, offset), -FAR, FAR);
    float high = (float)clip(scaled<float>(b, stride, offset), -FAR, FAR);
    double first = round_half_away(low);
    return {first, larger(round_half_away(high) - first + 1, 1.0)};
}

template <class R>
__device__ inline Range align_range(double a, double b, double stride, double offset, bool aligned) {
    R half = aligned ? (R)0.5 : (R)0;
    R low = (R)clip((double)(R)(scaled<R>(a, stride, offset) - half), -VERY_FAR, VERY_FAR);
    R high = (R)clip((double)(R)(scaled<R>(b, stride, offset) - half), -VERY_FAR, VERY_FAR);
    R extent = high - low;
    if (!aligned) extent = larger(extent, (R)1);
    return {(double)low, (double)extent};
}

template <class R>
__device__ inline Range range_of(const Call& call, double a, double b, i64 side) {
    if (call.rounding == SPPNET) return sppnet_range(a, b, call.stride, call.offset, (double)side);
    if (call.rounding == ROUND_FAST_RCNN) return fast_rcnn_range(a, b, call.stride, call.offset);
    if (call.rounding == ALIGN) return align_range<R>(a, b, call.stride, call.offset, call.aligned);
    double low = clip(a, 0, (double)side), high = clip(b, 0, (double)side);
    return {low, larger(high - low, 0.0)};
}

__device__ inline bool is_window(const Call& call, const double* roi, double n) {
    bool good = n >= 0 && n < (double)call.maps && n == floor(n) && roi[2] >= roi[0] && roi[3] >= roi[1];
    for (int k = 0; k < 4; k++) good = good && fabs(roi[k]) <= DOUBLE_MAX && (call.rounding != CELLS || roi[k] == floor(roi[k]));
    return good;
}

// One thread for each window: checks it, and turns it into cells of its map, computed in R.
template <class R>
__global__ void plan_windows(const Call call) {
    i64 r = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= call.windows) return;
    const double* roi = (const double*)call.rois_at + r * call.roi_fields;
    double n = call.index_at ? (double)((const i64*)call.index_at)[r] : 0;
    if (call.roi_fields == 5) n = *roi++;
    Window* window = (Window*)call.windows_at + r;
    window->map = -1;
    if (!is_window(call, roi, n)) {
        if (call.status_at) *(i64*)call.status_at = 1;
        return;
    }
    Map map = map_of(call, (i64)n);
    Range y = range_of<R>(call, roi[1], roi[3], map.height), x = range_of<R>(call, roi[0], roi[2], map.width);
    *window = {(i64)n, y.start, y.extent, x.start, x.extent};
}

// Window r of a call: a whole map where there are none.
__device__ inline Window window_of(const Call& call, i64 r) {
    if (call.windows_at) return ((const Window*)call.windows_at)[r];
    Map map = map_of(call, r);
    return {r, 0, (double)map.height, 0, (double)map.width};
}

__device__ inline Axis y_axis(const Call& call, const Window& window, const Map& map) {
    return {(int)window.y, (int)window.height, map.height, (int)call.rule};
}

__device__ inline Axis x_axis(const Call& call, const Window& window, const Map& map) {
    return {(int)window.x, (int)window.width, map.width, (int)call.rule};
}

// ---- whole maps, by way of shared memory ----------------------------------------------------------------------------

// Copy `size` bytes, by 16 where both are aligned alike: `to` and `from` are the same modulo 16.
__device__ inline void copy_span(char* to, const char* from, i64 size, i64 item) {
    i64 head = smaller((i64)((16 - ((i64)from & 15)) & 15), size), body = (size - head) / 16;
    for (i64 k = threadIdx.x; k < body; k += blockDim.x) ((uint4*)(to + head))[k] = ((const uint4*)(from + head))[k];
    i64 tail = head + 16 * body;
    for (i64 k = item * threadIdx.x; k < head; k += item * blockDim.x)
        for (i64 b = 0; b < item; b++) to[k + b] = from[k + b];
    for (i64 k = tail + item * threadIdx.x; k < size; k += item * blockDim.x)
        for (i64 b = 0; b < item; b++) to[k + b] = from[k + b];
}

// How a map is cut into tiles: their rows and columns, how many there are down and across.
struct Tiles {
    int rows, columns, down, across;
    __device__ inline Span rows_of(int tile, int height) const {
        int first = tile / across * rows;
        return {first, first + smaller(rows, height - first)};
    }
    __device__ inline Span columns_of(int tile, int width) const {
        int first = tile % across * columns;
        return {first, first + smaller(columns, width - first)};
    }
};

// Tiles of at most `room` cells, of whole rows where one fits.
__device__ inline Tiles tiles_of(const Call& call, const Map& map) {
    int room = (int)call.room, columns = smaller(map.width, room), rows = smaller(room / columns, map.height);
    int down = ceil_divide(map.height, rows), across = ceil_divide(map.width, columns);
    return {ceil_divide(map.height, down), ceil_divide(map.width, across), down, across};
}

// Cells in shared memory: planes of rows.
template <class T>
struct Tile {
    const T* at;
    int plane, row;  // items from one to the next
};

// Load a tile of `count` channels into shared memory.
template <class T>
__device__ inline Tile<T> load_tile(char* shared, const Map& map, i64 channel, int count, Span rows, Span columns) {
    const char* from = map.at + channel * map.channel_step + rows.first * map.row_step + columns.first * map.column_step;
    int width = columns.size(), cells = rows.size() * width;
    bool dense = map.column_step == sizeof(T) && (map.row_step == width * (i64)sizeof(T) || rows.size() == 1) &&
                 (map.channel_step == cells * (i64)sizeof(T) || count == 1);
    if (dense) {
        char* to = shared + ((i64)from & 15);
        copy_span(to, from, count * cells * (i64)sizeof(T), sizeof(T));
        return {(const T*)to, cells, width};
    }
    bool channels_first = map.channel_step >= map.column_step;  // neighbours in memory are read by neighbours
    int plane = cells | 1;  // the banks of shared memory take turns
    for (int k = threadIdx.x; k < count * cells; k += THREADS) {
        int c = channels_first ? k / cells : k % count, cell = channels_first ? k % cells : k / count;
        ((T*)shared)[c * plane + cell] =
            *(const T*)(from + c * map.channel_step + cell / width * map.row_step + cell % width * map.column_step);
    }
    return {(const T*)shared, plane, width};
}

// Where what is known of the bins of a whole map goes: to the results, or, of one tile of several, to its states.
template <class T, int mode>
struct Sink {
    typedef typename Reduction<T, mode>::State State;
    typedef typename Reduction<T, mode>::Out Out;
    const Call& call;
    i64 n, channel;
    int tile;

    __device__ inline State& state(const Level& level, int row, int column) const {
        i64 slot = level.slot + (row % level.slot_rows) * (i64)level.slot_columns + column % level.slot_columns;
        return ((State*)call.states_at)[((n * call.channels + channel) * call.slots + slot) * call.tiles + tile];
    }
    __device__ inline i64 item(const Level& level, int row, int column) const {
        return call.channels * level.first + (channel * level.rows + row) * level.columns + column;
    }
    __device__ inline void put(const Level& level, int row, int column, const State& own, i64 cells) const {
        if (call.states_at)
            state(level, row, column) = own;
        else
            write_bin<Out, mode>(call, n, item(level, row, column), own.template result<Out>(cells), own.place());
    }
    __device__ inline State get(const Level& level, int row, int column) const {
        if (call.states_at) return state(level, row, column);
        State own;
        i64 at = item(level, row, column);
        int place = has_places(mode) ? ((const int*)(call.places_at + n * call.places_step))[at] : -1;
        own.add(widen(((const Out*)(call.values_at + n * call.values_step))[at]), place);
        return own;
    }
};

__device__ inline Span cut(Span span, Span by) { return {larger(span.first, by.first), smaller(span.stop, by.stop)}; }

// The bins of n that have one of some cells, of a tile; all bins, with cells or not, if the tile is the whole axis.
__device__ inline Span bins_over(const Axis& axis, int n, Span cells) {
    if (cells.size() == axis.limit) return {0, n};
    return {bins_with(axis, n, cells.first).first, bins_with(axis, n, cells.stop - 1).stop};
}

// How many threads reduce a bin, where a block has so many bins, of so many cells.
__device__ inline int team_for(int bins, int cells) {
    int team = THREADS;
    while (team > 1 && (team > THREADS / bins || team * FEW_CELLS > cells)) team /= 2;
    return team;
}

// Reduce cells of a plane in shared memory: those that thread `lane` of `team` has.
template <class T, class State>
__device__ inline State reduce_cells(const T* plane, int pitch, Span rows, Span columns, int width, Span all_rows,
                                     Span all_columns, int lane, int team) {
    State state;
    int wide = columns.size(), size = rows.size() * wide, row = rows.first, column = columns.first + lane;
    const T* own = plane - all_rows.first * pitch - all_columns.first;
    for (int k = lane; k < size; k += team) {
        while (column >= columns.stop) { column -= wide; row++; }
        state.add(widen(own[row * pitch + column]), (int)(row * (i64)width + column));
        column += team;
    }
    return state;
}

// Merge the states of `team` threads side by side, a power of two, into the first one's. All of a block take part.
template <class State>
__device__ inline void merge_team(State& state, State* states, int team) {
    for (int mask = smaller(team, WARP) / 2; mask; mask /= 2) state.merge(state.shuffled(mask));
    if (team <= WARP) return;
    int thread = (int)threadIdx.x;
    if (thread % WARP == 0) states[thread / WARP] = state;
    __syncthreads();
    if (thread % team == 0)
        for (int k = 1; k < team / WARP; k++) state.merge(states[thread / WARP + k]);
}

// The bins of levels that have cells of a block's tile, along both axes, in shared memory.
struct Reach {
    Span down, along;
};

// A block reduces a tile of `group` channels of a map, read once for all levels. A bin is reduced by as many threads
// side by side as there are for each, a power of two; or it is made of a finer level's bins, which are there already.
template <class T, int mode>
__global__ void __launch_bounds__(THREADS, 3) pool_tiles(const Call call) {
    typedef typename Reduction<T, mode>::State State;
    DYNAMIC_SHARED(shared);
    State* states = (State*)shared;
    Reach* reaches = (Reach*)(states + THREADS / WARP);
    unsigned groups = (unsigned)ceil_divide(call.channels, call.group), block = blockIdx.x / (unsigned)call.tiles;
    i64 n = block / groups, channel = block % groups * call.group;
    int tile = (int)(blockIdx.x % (unsigned)call.tiles), count = (int)smaller(call.group, call.channels - channel);
    Map map = map_of(call, n);
    Tiles tiles = tiles_of(call, map);
    if (tile >= tiles.down * tiles.across) return;
    Span rows = tiles.rows_of(tile, map.height), columns = tiles.columns_of(tile, map.width);
    Tile<T> cells = load_tile<T>((char*)(reaches + REACHES), map, channel, count, rows, columns);
    Axis y = {0, map.height, map.height, (int)call.rule}, x = {0, map.width, map.width, (int)call.rule};
    for (int l = 0; l < call.levels; l++) {
        const Level& level = level_of(call, l);
        if (l % REACHES == 0) {
            if (l) __syncthreads();
            int k = (int)threadIdx.x / 2, own = l + k;
            if (k < REACHES && own < call.levels) {
                if (threadIdx.x % 2)
                    reaches[k].along = bins_over(x, level_of(call, own).columns, columns);
                else
                    reaches[k].down = bins_over(y, level_of(call, own).rows, rows);
            }
        }
        __syncthreads();  // the cells are there, and what is known of finer levels
        Reach reach = reaches[l % REACHES];
        int wide = reach.along.size(), bins = reach.down.size() * wide, items = count * bins;
        if (items == 0) continue;
        int team = level.finer < 0 ? team_for(items, rows.size() * columns.size() / bins) : 1;
        for (unsigned begin = 0; begin < (unsigned)(items * team); begin += THREADS) {
            unsigned t = begin + threadIdx.x;
            int item = (int)smaller(t / team, items - 1u), bin = item % bins;
            int row = reach.down.first + bin / wide, column = reach.along.first + bin % wide;
            Sink<T, mode> sink = {call, n, channel + item / bins, tile};
            State state;
            i64 size = 1;
            if (level.finer < 0) {
                Span own_rows = cut(bin_span(y, level.rows, row), rows);
                Span own_columns = cut(bin_span(x, level.columns, column), columns);
                size = (i64)own_rows.size() * own_columns.size();
                const T* plane = cells.at + item / bins * cells.plane;
                state = reduce_cells<T, State>(plane, cells.row, own_rows, own_columns, map.width, rows, columns,
                                               (int)(t % team), team);
                merge_team(state, states, team);
            } else if constexpr (mode != AVG) {
                const Level& finer = level_of(call, level.finer);
                Reach fine = reaches[level.finer];
                fine.down = cut({row * level.tall, (row + 1) * level.tall}, fine.down);
                fine.along = cut({column * level.wide, (column + 1) * level.wide}, fine.along);
#pragma unroll 1  // they are few, and registers are scarce
                for (int i = fine.down.first; i < fine.down.stop; i++)
#pragma unroll 1
                    for (int k = fine.along.first; k < fine.along.stop; k++) state.merge(sink.get(finer, i, k));
            }
            if (t % team == 0 && t < (unsigned)(items * team)) sink.put(level, row, column, state, size);
        }
    }
}

// A warp merges the states of a bin's tiles.
template <class T, int mode>
__global__ void __launch_bounds__(THREADS, 4) merge_tiles(const Call call) {
    typedef typename Reduction<T, mode>::State State;
    typedef typename Reduction<T, mode>::Out Out;
    i64 own = (i64)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, plane = own / call.bins;
    if (plane >= call.maps * call.channels) return;
    int bin = (int)(own % call.bins), lane = threadIdx.x % WARP;
    Level level = level_of_bin(call, bin);
    int row = bin / level.columns, column = bin % level.columns;
    Map map = map_of(call, plane / call.channels);
    Tiles tiles = tiles_of(call, map);
    Span rows = bin_span({0, map.height, map.height, (int)call.rule}, level.rows, row);
    Span columns = bin_span({0, map.width, map.width, (int)call.rule}, level.columns, column);
    int top = rows.first / tiles.rows, left = columns.first / tiles.columns;
    int wide = ceil_divide(columns.stop, tiles.columns) - left;
    i64 size = (i64)rows.size() * columns.size();
    int count = size ? (ceil_divide(rows.stop, tiles.rows) - top) * wide : 0;
    State state;
    for (int k = lane; k < count; k += WARP) {
        int tile = (top + k / wide) * tiles.across + left + k % wide;
        state.merge(Sink<T, mode>{call, plane / call.channels, plane % call.channels, tile}.state(level, row, column));
    }
    merge_team(state, (State*)0, WARP);
    i64 item = call.channels * level.first + plane % call.channels * (level.rows * level.columns) + bin;
    if (lane == 0)
        write_bin<Out, mode>(call, plane / call.channels, item, state.template result<Out>(size), state.place());
}

// ---- windows: their bins, pooled or sampled --------------------------------------------------------------------------

// Bring maps into the layout (cell, channel), the channels of a cell `pitch` items apart: a block moves 32 x 32 items.
template <class T>
__global__ void __launch_bounds__(THREADS) pack_maps(const Call call) {
    DYNAMIC_SHARED(shared);
    T(*tile)[WARP + 1] = (T(*)[WARP + 1])shared;
    i64 groups = ceil_divide(call.channels, (i64)WARP), block = blockIdx.x / groups;
    i64 n = block / call.chunk, cell = block % call.chunk * WARP, channel = blockIdx.x % groups * WARP;
    Map map = map_of(call, n);
    i64 cells = map.cells();
    i64 first = call.maps_at ? ((const i64*)call.firsts_at)[n] : n * cells;
    int side = threadIdx.x % WARP;
    for (int k = threadIdx.x / WARP; k < WARP; k += THREADS / WARP) {
        i64 own = cell + side, c = channel + k;
        if (own < cells && c < call.channels)
            tile[k][side] = *(const T*)(map.at + c * map.channel_step + own / map.width * map.row_step +
                                        own % map.width * map.column_step);
    }
    __syncthreads();
    for (int k = threadIdx.x / WARP; k < WARP; k += THREADS / WARP) {
        i64 own = cell + k, c = channel + side;
        if (own < cells && c < call.channels) ((T*)call.packed_at)[(first + own) * call.pitch + c] = tile[side][k];
    }
}

// Channels of a cell, side by side in memory.
template <class T, int size>
struct __align__(sizeof(T) * size) Vector {
    T item[size];
};

template <class T, int mode, int size>
struct Bins {
    typedef typename Reduction<T, mode>::State State;
    const Call& call;
    const Map& map;
    const Window& window;
    const char* at;  // of the thread's channels

    // Reduce the cells of a bin; return how many.
    __device__ inline i64 reduce(const Level& level, int bin, State* states) const {
        Span rows = bin_span(y_axis(call, window, map), level.rows, bin / level.columns);
        Span columns = bin_span(x_axis(call, window, map), level.columns, bin % level.columns);
        for (int y = rows.first; y < rows.stop; y++) {
            const char* row = at + y * map.row_step;
#pragma unroll 4
            for (int x = columns.first; x < columns.stop; x++) {
                Vector<T, size> v = *(const Vector<T, size>*)(row + x * map.column_step);
#pragma unroll
                for (int i = 0; i < size; i++) states[i].add(widen(v.item[i]), (int)(y * (i64)map.width + x));
            }
        }
        return (i64)rows.size() * columns.size();
    }
};

template <class T, int mode, int size>
struct SampledBins {
    typedef typename Reduction<T, mode>::State State;
    typedef typename Wide<typename MeanOf<T>::type>::type R;  // of coordinates
    const Call& call;
    const Map& map;
    const Window& window;
    const char* at;

    __device__ inline void corner(State* states, int y, int x, double weight) const {
        Vector<T, size> v = *(const Vector<T, size>*)(at + y * map.row_step + x * map.column_step);
#pragma unroll
        for (int i = 0; i < size; i++) states[i].add_weighted((double)widen(v.item[i]), weight, (int)(y * (i64)map.width + x));
    }

    // Reduce the samples of a bin; return how many.
    __device__ inline i64 reduce(const Level& level, int bin, State* states) const {
        int row = bin / level.columns, column = bin % level.columns;
        Samples<R> y = samples_in<R>(window.y, window.height, level.rows, row, (int)call.sampling, map.height);
        Samples<R> x = samples_in<R>(window.x, window.width, level.columns, column, (int)call.sampling, map.width);
        i64 samples = (i64)y.count * x.count, inside = 0;
        if (samples == 0) return 0;
        if (y.first > 0 || x.first > 0) outside(states);  // in the order of the samples: this one is the first
        for (unsigned i = y.first; i < y.stop; i++) {
            auto v = y.tap(i);
            for (unsigned k = x.first; k < x.stop; k++) {
                auto h = x.tap(k);
                if (!v.inside || !h.inside) {
                    outside(states);
                    continue;
                }
                inside++;
                corner(states, v.low, h.low, v.low_weight * h.low_weight);
                corner(states, v.low, h.high, v.low_weight * h.high_weight);
                corner(states, v.high, h.low, v.high_weight * h.low_weight);
                corner(states, v.high, h.high, v.high_weight * h.high_weight);
            }
        }
        if (inside < samples) outside(states);
        return samples;
    }

    __device__ inline void outside(State* states) const {
#pragma unroll
        for (int i = 0; i < size; i++) states[i].add_outside();
    }
};

template <class T, int mode, int size, bool align> struct BinsOf { typedef Bins<T, mode, size> type; };
template <class T, int mode, int size> struct BinsOf<T, mode, size, true> { typedef SampledBins<T, mode, size> type; };

// The values and places of a block's bins, in shared memory: (bin, channel).
template <class Out, int mode>
struct Stage {
    char* at;
    int pitch, bins;
    __device__ inline Out& value(int bin, int channel) const { return ((Out*)at)[bin * pitch + channel]; }
    __device__ inline int& place(int bin, int channel) const {
        return ((int*)(at + ceil_divide(bins * pitch * (int)sizeof(Out), 4) * 4))[bin * pitch + channel];
    }
};

// A bin of a level made from bins of a finer one, of which it is the union.
template <class T, int mode>
__device__ inline void derive_bin(const Call& call, const Stage<T, mode>& stage, const Level& level, int begin, int bin, int channel) {
    typename Reduction<T, mode>::State state;
    Level finer = level_of(call, level.finer);
    int from = 0, row = bin / level.columns * level.tall, column = bin % level.columns * level.wide, cells = 0;
    for (int l = 0; l < level.finer; l++) from += level_of(call, l).rows * level_of(call, l).columns;
    for (int y = row; y < row + level.tall; y++)
        for (int x = column; x < column + level.wide; x++) {
            int own = from + y * finer.columns + x;
            int place = has_places(mode) ? stage.place(own, channel) : 0;
            if (has_places(mode) && place < 0) continue;
            state.add(widen(stage.value(own, channel)), place);
            cells++;
        }
    stage.value(begin + bin, channel) = state.template result<T>(cells);
    if (has_places(mode)) stage.place(begin + bin, channel) = state.place();
}

template <class Out, int mode, bool derived> struct Derive {
    static __device__ inline void level(const Call&, const Stage<Out, mode>&, const Level&, int, int) {}
};
template <class Out, int mode> struct Derive<Out, mode, true> {
    static __device__ inline void level(const Call& call, const Stage<Out, mode>& stage, const Level& level, int begin, int channels) {
        for (int k = threadIdx.x; k < level.rows * level.columns * channels; k += blockDim.x)
            derive_bin<Out, mode>(call, stage, level, begin, k / channels, k % channels);
    }
};

// A block reduces `chunk` bins of `group` channels of a window: `lanes` threads side by side, each for `size` channels,
// of which more than one lie together as a vector; the other threads of the block have other bins. The results go by
// way of shared memory, so that they are written in their order.
template <class T, int mode, int size>
__global__ void __launch_bounds__(THREADS, 2) pool_windows(const Call call) {
    typedef typename Reduction<T, mode>::State State;
    typedef typename Reduction<T, mode>::Out Out;
    DYNAMIC_SHARED(shared);
    unsigned groups = (unsigned)ceil_divide(call.channels, call.group), chunks = (unsigned)ceil_divide(call.bins, call.chunk);
    i64 r = blockIdx.x / chunks / groups, channel = blockIdx.x / chunks % groups * call.group;
    int begin = (int)(blockIdx.x % chunks * call.chunk), bins = (int)smaller(call.chunk, call.bins - begin);
    int channels = (int)smaller(call.group, call.channels - channel), lanes = (int)call.lanes;
    int own = threadIdx.x % lanes * size;  // the thread's first channel
    Window window = window_of(call, r);
    Map map = window.map < 0 ? Map{0, 0, 0, 0, 0, 0} : map_of(call, window.map);
    Stage<Out, mode> stage = {shared, (int)call.pitch, bins};
    typename BinsOf<T, mode, size, is_align(mode)>::type reducer = {
        call, map, window, map.at + (channel + own) * map.channel_step};
    for (int b = threadIdx.x / lanes; b < bins && own < channels; b += THREADS / lanes) {
        int bin = begin + b;
        const Level& level = level_of_bin(call, bin);
        if (level.finer >= 0) continue;
        State states[size];
        i64 cells = window.map < 0 ? 0 : reducer.reduce(level, bin, states);
#pragma unroll
        for (int i = 0; i < size; i++)
            if (own + i < channels) {
                stage.value(b, own + i) = states[i].template result<Out>(cells);
                if (has_places(mode)) stage.place(b, own + i) = cells ? states[i].place() : -1;
            }
    }
    __syncthreads();
    int first = 0;
    for (int l = 0; l < call.levels; l++) {
        const Level& level = level_of(call, l);
        if (level.finer >= 0) {
            Derive<Out, mode, mode == MAX || mode == ARGMAX>::level(call, stage, level, first, channels);
            __syncthreads();
        }
        first += level.rows * level.columns;
    }
    first = -begin;
    for (int l = 0; l < call.levels; l++) {
        const Level& level = level_of(call, l);
        int all = level.rows * level.columns, low = larger(first, 0), wide = smaller(first + all, bins) - low;
        for (int k = threadIdx.x; wide > 0 && k < wide * channels; k += THREADS) {
            int b = low + k % wide, c = k / wide;
            i64 item = call.channels * level.first + (channel + c) * all + b - first;
            write_bin<Out, mode>(call, r, item, stage.value(b, c), has_places(mode) ? stage.place(b, c) : -1);
        }
        first += all;
    }
}

// ---- gradients ------------------------------------------------------------------------------------------------------

// The first thread's next row at or after `row` that is a window of map n, or `stop`: a warp looks at 32 at a time.
__device__ inline i64 next_window(const Call& call, i64 n, i64 row, i64 stop) {
    for (; row < stop; row += WARP) {
        i64 own = row + threadIdx.x % WARP;
        unsigned found = __ballot_sync(ALL, own < stop && window_of(call, own).map == n);
        if (found) return row + __ffs(found) - 1;
    }
    return stop;
}

// Add the gradients of a window's maxima to a plane, which all threads of the warp may read then. Where bins of a step
// share a cell they are added in their order.
template <class A>
__device__ inline void scatter_row(const Call& call, A* plane, i64 cells, i64 row, i64 channel) {
    int lane = threadIdx.x % WARP;
    for (int begin = 0; begin < call.bins; begin += WARP) {
        int bin = begin + lane;
        i64 cell = -1;
        A value = 0;
        if (bin < call.bins) {
            const Level& level = level_of_bin(call, bin);
            i64 item = call.channels * level.first + channel * (level.rows * level.columns) + bin;
            cell = ((const int*)(call.places_at + row * call.places_step))[item];
            value = ((const A*)(call.values_at + row * call.values_step))[item];
            if (call.weights_at) value *= ((const A*)(call.weights_at + row * call.weights_step))[item];
            if (cell >= cells || cell < -1) {
                if (call.status_at) *(i64*)call.status_at = row + 1;
                cell = -1;
            }
        }
        unsigned peers = __match_any_sync(ALL, (int)cell);
        int turn = cell < 0 ? -1 : __popc(peers & ((1u << lane) - 1));
        for (int now = 0; __any_sync(ALL, turn >= now); now++) {
            if (turn == now) plane[cell] += value;
            __syncwarp();
        }
    }
}

// A warp adds up the gradient of one channel of a map, from a part of the windows, in their order.
template <class A>
__global__ void __launch_bounds__(WARP) scatter_maxima(const Call call) {
    DYNAMIC_SHARED(shared);
    i64 part = blockIdx.x % call.parts, channel = blockIdx.x / call.parts % call.channels;
    i64 n = blockIdx.x / call.parts / call.channels, cells;
    Map map = map_of(call, n);
    cells = map.cells();
    A* target = (A*)(map.at + part * call.part_step + channel * map.channel_step);
    A* plane = call.shared_planes ? (A*)(shared + ((i64)target & 15)) : target;
    for (i64 k = threadIdx.x; k < cells; k += WARP) plane[k] = 0;
    __syncwarp();
    if (call.windows_at) {
        i64 begin = call.windows * part / call.parts, stop = call.windows * (part + 1) / call.parts;
        for (i64 row = next_window(call, n, begin, stop); row < stop; row = next_window(call, n, row + 1, stop))
            scatter_row(call, plane, cells, row, channel);
    } else {
        scatter_row(call, plane, cells, n, channel);
    }
    if (call.shared_planes) copy_span((char*)target, (const char*)plane, cells * sizeof(A), sizeof(A));
}

// Weights of the bins along one axis for a cell: of means of cells.
struct CellWeights {
    Axis axis;
    int n, cell;
    Span bins;
    __device__ inline CellWeights(const Axis& axis_, int n_, int cell_) : axis(axis_), n(n_), cell(cell_) {
        bins = bins_with(axis, n, cell);
    }
    __device__ inline double weight(int i) const {
        Span span = bin_span(axis, n, i);
        return span.has(cell) ? 1.0 / (double)span.size() : 0.0;
    }
};

// The same of means of samples.
template <class R>
struct SampleWeights {
    R begin, extent;
    int side, sampling, n, cell;
    Span bins;
    __device__ inline SampleWeights(double begin_, double extent_, int n_, int cell_, int side_, int sampling_)
        : begin((R)begin_), extent((R)extent_), side(side_), sampling(sampling_), n(n_), cell(cell_) {
        bins = {0, n};
        if (extent > TINY) {
            double of_cell = (float)n / (float)extent;
            double slack = 2 + n * ROUNDING + of_cell * rounding_error(begin_, extent_);
            double from = (low() - begin_) * of_cell - slack, to = (high() - begin_) * of_cell + slack;
            bins = {(int)clip(from, 0, (double)n), (int)clip(to, 0, (double)n)};
        }
    }
    // Samples between these have a part in the cell.
    __device__ inline double low() const { return cell == 0 ? -1.0 : (double)cell - 1; }
    __device__ inline double high() const { return cell == side - 1 ? (double)side : (double)cell + 1; }
    __device__ inline double weight(int i) const {
        Samples<R> samples(begin, extent, n, i, sampling, side, low(), high());
        double sum = 0;
#pragma unroll 1
        for (unsigned k = samples.first; k < samples.stop; k++) {
            auto tap = samples.tap(k);
            if (tap.inside && tap.low == cell) sum += tap.low_weight;
            if (tap.inside && tap.high == cell) sum += tap.high_weight;
        }
        return samples.count ? sum / (double)samples.count : 0.0;
    }
};

template <class A, bool align> struct WeightsOf {
    typedef CellWeights type;
    static __device__ inline type y(const Call& call, const Window& w, const Map& map, int n, int cell) {
        return type(y_axis(call, w, map), n, cell);
    }
    static __device__ inline type x(const Call& call, const Window& w, const Map& map, int n, int cell) {
        return type(x_axis(call, w, map), n, cell);
    }
};
template <class A> struct WeightsOf<A, true> {
    typedef SampleWeights<A> type;
    static __device__ inline type y(const Call& call, const Window& w, const Map& map, int n, int cell) {
        return type(w.y, w.height, n, cell, map.height, (int)call.sampling);
    }
    static __device__ inline type x(const Call& call, const Window& w, const Map& map, int n, int cell) {
        return type(w.x, w.width, n, cell, map.width, (int)call.sampling);
    }
};

// Add what the means of one window give to a cell, in `count` channels.
template <class A, bool align>
__device__ inline void gather_window(const Call& call, const Map& map, const Window& window, i64 row, i64 channel,
                                     int count, int y, int x, double* sums) {
    typedef WeightsOf<A, align> Weights;
    for (int l = 0; l < call.levels; l++) {
        const Level& level = level_of(call, l);
        auto down = Weights::y(call, window, map, level.rows, y);
        if (down.bins.size() == 0) continue;
        auto along = Weights::x(call, window, map, level.columns, x);
        i64 bins = level.rows * level.columns;
        const A* grad = (const A*)(call.values_at + row * call.values_step) + call.channels * level.first + channel * bins;
#pragma unroll 1
        for (int i = down.bins.first; i < down.bins.stop; i++) {
            double by = down.weight(i);
            if (by == 0) continue;
#pragma unroll 1
            for (int k = along.bins.first; k < along.bins.stop; k++) {
                double weight = by * along.weight(k);
                if (weight == 0) continue;
                const A* own = grad + (i64)i * level.columns + k;
#pragma unroll
                for (int c = 0; c < GATHERED; c++)
                    if (c < count) sums[c] = fma((double)own[c * bins], weight, sums[c]);
            }
        }
    }
}

// Whether a window may have a part in some cells of an axis. A sample left of the map has one in its first cell, one
// right of it in its last.
__device__ inline bool reaches(double begin, double extent, int side, Span cells) {
    double slack = 2 + rounding_error(begin, extent);
    double low = clip(begin - slack, 0, side - 1.0), high = clip(begin + extent + slack, 0, side - 1.0);
    return high >= (double)cells.first && low < (double)cells.stop;
}

// List those of a block's next windows that may have a part in its cells, in their order; return how many.
__device__ inline int list_windows(const Call& call, const Map& map, i64 n, i64 begin, i64 stop, Span rows,
                                   Span columns, int* list) {
    int* counts = list + GATHER_THREADS;
    int thread = (int)threadIdx.x, before = 0, found = 0;
    bool near = false;
    if (begin + thread < stop) {
        Window window = window_of(call, begin + thread);
        near = window.map == n && reaches(window.y, window.height, map.height, rows) &&
               reaches(window.x, window.width, map.width, columns);
    }
    unsigned all = __ballot_sync(ALL, near);
    if (thread % WARP == 0) counts[thread / WARP] = __popc(all);
    __syncthreads();
#pragma unroll 1
    for (int warp = 0; warp < GATHER_THREADS / WARP; warp++) {
        if (warp < thread / WARP) before += counts[warp];
        found += counts[warp];
    }
    // All threads are done with the list before, or they had not come to the barrier above.
    if (near) list[before + __popc(all & ((1u << thread % WARP) - 1))] = thread;
    __syncthreads();
    return found;
}

// A block adds up the gradients of a rectangle of cells, `lanes` wide, in some channels; each thread those of a cell,
// from all windows around it, in their order.
template <class A, bool align>
__global__ void __launch_bounds__(GATHER_THREADS, 3) gather_means(const Call call) {
    DYNAMIC_SHARED(shared);
    int* list = (int*)shared;
    unsigned groups = (unsigned)ceil_divide(call.channels, (i64)GATHERED), block = blockIdx.x / (unsigned)call.chunk;
    i64 n = block / groups, channel = block % groups * GATHERED;
    int rectangle = (int)(blockIdx.x % (unsigned)call.chunk), count = (int)smaller((i64)GATHERED, call.channels - channel);
    Map map = map_of(call, n);
    int wide = (int)call.lanes, tall = GATHER_THREADS / wide, across = ceil_divide(map.width, wide);
    Span rows = {rectangle / across * tall, rectangle / across * tall + tall};
    Span columns = {rectangle % across * wide, rectangle % across * wide + wide};
    if (rows.first >= map.height) return;
    int y = rows.first + (int)threadIdx.x / wide, x = columns.first + (int)threadIdx.x % wide;
    bool inside = y < map.height && x < map.width;
    double sums[GATHERED] = {};
    i64 stop = call.windows_at ? call.windows : n + 1;
    for (i64 begin = call.windows_at ? 0 : n; begin < stop; begin += GATHER_THREADS) {
        int found = list_windows(call, map, n, begin, stop, rows, columns, list);
#pragma unroll 1
        for (int k = 0; inside && k < found; k++) {
            i64 row = begin + list[k];
            Window window = window_of(call, row);
            if (reaches(window.y, window.height, map.height, {y, y + 1}) &&
                reaches(window.x, window.width, map.width, {x, x + 1}))
                gather_window<A, align>(call, map, window, row, channel, count, y, x, sums);
        }
    }
#pragma unroll
    for (int c = 0; c < GATHERED; c++)
        if (inside && c < count) ((A*)(map.at + (channel + c) * map.channel_step))[(i64)y * map.width + x] = (A)sums[c];
}
