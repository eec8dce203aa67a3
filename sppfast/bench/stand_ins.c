/* Stand-ins for peers that cannot be had from a package index for a machine without a GPU. One thread each. */
#include <float.h>
#include <string.h>
#include <xmmintrin.h>

/* Pyramid pooling of windows as SPP-net's authors did it on the CPU: channels side by side, four at a time in SSE
 * registers, every level from the cells of the map.
 *
 * map: (H, W, C); windows: x0, y0, x1, y1 in cells, half-open; result: (R, bins, C), bins level by level.
 */
static void pool_bin(const float *map, long width, long channels, long y0, long y1, long x0, long x1, float *bin)
{
    for (long c = 0; c < channels; c += 4)
        _mm_storeu_ps(bin + c, _mm_set1_ps(-FLT_MAX));
    for (long y = y0; y < y1; y++)
        for (long x = x0; x < x1; x++) {
            const float *cell = map + (y * width + x) * channels;
            for (long c = 0; c < channels; c += 4)
                _mm_storeu_ps(bin + c, _mm_max_ps(_mm_loadu_ps(bin + c), _mm_loadu_ps(cell + c)));
        }
}

void sse_pool(const float *map, long width, long channels, const long *windows, long count, const long *levels,
              long level_count, float *result)
{
    for (const long *w = windows; w < windows + 4 * count; w += 4)
        for (long i = 0; i < level_count; i++) {
            long n = levels[i], wide = w[2] - w[0], tall = w[3] - w[1];
            for (long row = 0; row < n; row++)
                for (long column = 0; column < n; column++, result += channels)
                    pool_bin(map, width, channels, w[1] + row * tall / n, w[1] + ((row + 1) * tall + n - 1) / n,
                             w[0] + column * wide / n, w[0] + ((column + 1) * wide + n - 1) / n, result);
        }
}

/* The gradient of RoI max pooling as torchvision and others compute it: output by output. indices: row * W + column. */
void roi_pool_backward(const float *grad, const int *indices, const float *rois, long count, long channels, long height,
                       long width, long n, float *result)
{
    memset(result, 0, sizeof(float) * channels * height * width);
    for (long r = 0; r < count; r++)
        for (long c = 0; c < channels; c++) {
            float *plane = result + ((long)rois[5 * r] * channels + c) * height * width;
            for (long i = 0; i < n * n; i++, grad++, indices++)
                if (*indices >= 0)
                    plane[*indices] += *grad;
        }
}

static void taps(float at, long side, long *low, long *high, float *low_weight, float *high_weight)
{
    if (at < -1 || at > side) {
        *low = *high = -1;
        return;
    }
    at = at < 0 ? 0 : at;
    *low = (long)at < side - 1 ? (long)at : side - 1;
    *high = *low + 1 < side ? *low + 1 : side - 1;
    *high_weight = *low == *high ? 0 : at - *low;
    *low_weight = 1 - *high_weight;
}

/* The gradient of RoI align, aligned, as torchvision and others compute it: output by output, sample by sample. */
void roi_align_backward(const float *grad, const float *rois, long count, long channels, long height, long width, long n,
                        long ratio, float scale, float *result)
{
    memset(result, 0, sizeof(float) * channels * height * width);
    for (long i = 0; i < count * channels * n * n; i++) {
        long x = i % n, y = i / n % n, c = i / (n * n) % channels;
        const float *roi = rois + 5 * (i / (n * n) / channels);
        float left = roi[1] * scale - 0.5f, top = roi[2] * scale - 0.5f;
        float wide = (roi[3] * scale - 0.5f - left) / n, tall = (roi[4] * scale - 0.5f - top) / n;
        float *plane = result + ((long)roi[0] * channels + c) * height * width;
        for (long iy = 0; iy < ratio; iy++)
            for (long ix = 0; ix < ratio; ix++) {
                long y0, y1, x0, x1;
                float hy, ly, hx, lx, g = grad[i] / (ratio * ratio);
                taps(top + y * tall + (iy + 0.5f) * tall / ratio, height, &y0, &y1, &hy, &ly);
                taps(left + x * wide + (ix + 0.5f) * wide / ratio, width, &x0, &x1, &hx, &lx);
                if (y0 < 0 || x0 < 0)
                    continue;
                plane[y0 * width + x0] += g * hy * hx;
                plane[y0 * width + x1] += g * hy * lx;
                plane[y1 * width + x0] += g * ly * hx;
                plane[y1 * width + x1] += g * ly * lx;
            }
    }
}
