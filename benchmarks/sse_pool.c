/* Pyramid pooling of windows as SPP-net's authors did it on the CPU: one thread, channels side by side, four at a time
 * in SSE registers, every level from the cells of the map. It stands in for their release, which is not at hand.
 *
 * map: (H, W, C); windows: x0, y0, x1, y1 in cells, half-open; result: (R, bins, C), bins level by level.
 */
#include <float.h>
#include <xmmintrin.h>

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
