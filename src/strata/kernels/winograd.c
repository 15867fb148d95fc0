/* 3x3 convolutions of stride 1 by Winograd's minimal filtering, in fp32: what comes out, and the gradients of both
   sides.

   Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", section 4.3: F(4x4, 3x3). Four by four
   pixels that come out need six by six that go in. Transformed, the 144 products of each pair of channels are 36; those
   of all tiles and channels are 36 matrix products. The price is rounding: errors of 2e-6 to 8e-6 of the largest output
   in place of 1e-6. Pictures of up to two pixels take F(2x2, 3x3), section 4.1: 16 products, of which none is for
   pixels outside.

   The transforms are linear, so a gradient goes back through them transposed. The gradient of what went in is such a
   convolution too, of the other gradient with the filters turned round.

   Pictures are (B, H, W, C) in memory; filters have any strides. K channels are summed over, N come out, both whole
   multiples of GRAIN. T tiles, P points of a transformed tile: 36 or 16. */

#include <omp.h>

#include "vectors.h"

#if LANES == 8
#define WIDE 2 /* vectors of outputs in a product's innermost block */
#else
#define WIDE 4
#endif
#define HIGH 6 /* rows of it: HIGH x WIDE sums stay in registers */
#define GRAIN 16
#define DEEP 128 /* terms of a sum at a time: what they multiply stays in the first cache */
#define ROW(channels) ((channels) + SKEW)
#define SKEW 16 /* floats between the points of a scratch, or all would fall into the same places of the cache */

static long least(long a, long b) { return a < b ? a : b; }

/* C (HIGH x wide vectors) = A B, or += : A's element (m, k) lies at m a_m + k a_k, rows of B b_k apart, of C c_m. */
INLINE void block(int wide, const float *a, long a_m, long a_k, const float *b, long b_k, float *c, long c_m,
                  long depth, int more) {
    floats sum[HIGH][WIDE];
    EACH(m, HIGH)
        EACH(n, wide) sum[m][n] = more ? get(c + m * c_m + n * LANES) : (floats){0};
    for (long k = 0; k < depth; k++, a += a_k, b += b_k) {
        floats row[WIDE];
        EACH(n, wide) row[n] = get(b + n * LANES);
        EACH(m, HIGH) {
            floats one = spread(a + m * a_m);
            EACH(n, wide) sum[m][n] += one * row[n];
        }
    }
    EACH(m, HIGH)
        EACH(n, wide) put(c + m * c_m + n * LANES, sum[m][n]);
}

/* The same for `rows` rows, of which C has room for whole multiples of HIGH, and any number of vectors up to WIDE. */
static void blocks(int wide, long rows, const float *a, long a_m, long a_k, const float *b, long b_k, float *c,
                   long c_m, long depth, int more) {
#define ROWS(w) \
    for (long k = 0; k < depth; k += DEEP) \
        for (long m = 0, deep = least(DEEP, depth - k); m < rows; m += HIGH) \
            block(w, a + m * a_m + k * a_k, a_m, a_k, b + k * b_k, b_k, c + m * c_m, c_m, deep, more | (k > 0))
    switch (wide) {
        case 1: ROWS(1); break;
#if WIDE > 2
        case 2: ROWS(2); break;
        case 3: ROWS(3); break;
#endif
        default: ROWS(WIDE);
    }
}

/* The transforms in one direction; s and t are the distances between elements that are read and written. */
typedef void line(const floats *from, int s, floats *to, int t);

/* B^T d of F(4, 3), at 0, 1, -1, 2, -2 and infinity. */
INLINE void inputs_4(const floats *d, int s, floats *v, int t) {
    floats a = d[4 * s] - 4 * d[2 * s], b = d[3 * s] - 4 * d[s], c = d[4 * s] - d[2 * s], e = 2 * (d[3 * s] - d[s]);
    v[0] = 4 * d[0] - 5 * d[2 * s] + d[4 * s];
    v[t] = a + b;
    v[2 * t] = a - b;
    v[3 * t] = c + e;
    v[4 * t] = c - e;
    v[5 * t] = 4 * d[s] - 5 * d[3 * s] + d[5 * s];
}

/* A^T m */
INLINE void outputs_4(const floats *m, int s, floats *y, int t) {
    floats a = m[s] + m[2 * s], b = m[s] - m[2 * s], c = m[3 * s] + m[4 * s], e = m[3 * s] - m[4 * s];
    y[0] = m[0] + a + c;
    y[t] = b + 2 * e;
    y[2 * t] = a + 4 * c;
    y[3 * t] = b + 8 * e + m[5 * s];
}

/* A y */
INLINE void gradients_4(const floats *y, int s, floats *m, int t) {
    floats a = y[0] + y[2 * s], b = y[s] + y[3 * s], c = y[0] + 4 * y[2 * s], e = 2 * y[s] + 8 * y[3 * s];
    m[0] = y[0];
    m[t] = a + b;
    m[2 * t] = a - b;
    m[3 * t] = c + e;
    m[4 * t] = c - e;
    m[5 * t] = y[3 * s];
}

/* G g */
INLINE void filters_4(const floats *g, int s, floats *u, int t) {
    floats a = (g[0] + g[2 * s]) * (-1.f / 6), b = g[s] * (-1.f / 6);
    floats c = g[0] * (1.f / 24) + g[2 * s] * (1.f / 6), e = g[s] * (1.f / 12);
    u[0] = g[0] * .25f;
    u[t] = a + b;
    u[2 * t] = a - b;
    u[3 * t] = c + e;
    u[4 * t] = c - e;
    u[5 * t] = g[2 * s];
}

/* G^T u */
INLINE void filters_back_4(const floats *u, int s, floats *g, int t) {
    floats a = (u[s] + u[2 * s]) * (-1.f / 6), b = (u[2 * s] - u[s]) * (1.f / 6);
    floats c = u[3 * s] + u[4 * s], e = (u[3 * s] - u[4 * s]) * (1.f / 12);
    g[0] = u[0] * .25f + a + c * (1.f / 24);
    g[t] = b + e;
    g[2 * t] = a + c * (1.f / 6) + u[5 * s];
}

/* The same of F(2, 3), at 0, 1, -1 and infinity. */

INLINE void inputs_2(const floats *d, int s, floats *v, int t) {
    v[0] = d[0] - d[2 * s];
    v[t] = d[s] + d[2 * s];
    v[2 * t] = d[2 * s] - d[s];
    v[3 * t] = d[s] - d[3 * s];
}

INLINE void outputs_2(const floats *m, int s, floats *y, int t) {
    y[0] = m[0] + m[s] + m[2 * s];
    y[t] = m[s] - m[2 * s] - m[3 * s];
}

INLINE void gradients_2(const floats *y, int s, floats *m, int t) {
    m[0] = y[0];
    m[t] = y[0] + y[s];
    m[2 * t] = y[0] - y[s];
    m[3 * t] = -y[s];
}

INLINE void filters_2(const floats *g, int s, floats *u, int t) {
    floats a = (g[0] + g[2 * s]) * .5f, b = g[s] * .5f;
    u[0] = g[0];
    u[t] = a + b;
    u[2 * t] = a - b;
    u[3 * t] = g[2 * s];
}

INLINE void filters_back_2(const floats *u, int s, floats *g, int t) {
    floats a = (u[s] + u[2 * s]) * .5f;
    g[0] = u[0] + a;
    g[t] = (u[s] - u[2 * s]) * .5f;
    g[2 * t] = a + u[3 * s];
}

/* A transform in both directions: from x from to to x to. */
INLINE void both(line *f, int from, int to, const floats *d, floats *done) {
    floats half[36];
    EACH(j, from) f(d + j, from, half + j, from);
    EACH(i, to) f(half + i * from, 1, done + i * to, 1);
}

/* Pictures cut into tiles: each begins `step` pixels after the one before, the first `pad` before the picture. */
typedef struct {
    long batch, height, width, rows, columns, step, pad;
} tiling;

typedef struct {
    long row, column, picture;
} place;

INLINE place place_of(const tiling *g, long tile) {
    return (place){tile / g->columns % g->rows, tile % g->columns, tile / g->columns / g->rows};
}

INLINE void read_tiles(line *f, int from, int to, const tiling *g, long first, long count, const float *x,
                       long channels, const float *zeros, float *v, long point) {
    for (long t = 0; t < count; t++) {
        const float *at[36];
        place here = place_of(g, first + t);
        for (int i = 0; i < from; i++)
            for (int j = 0; j < from; j++) {
                long h = here.row * g->step - g->pad + i, w = here.column * g->step - g->pad + j;
                int inside = h >= 0 && h < g->height && w >= 0 && w < g->width;
                at[i * from + j] = inside ? x + ((here.picture * g->height + h) * g->width + w) * channels : zeros;
            }
        for (long c = 0; c < channels; c += LANES) {
            floats d[36], done[36];
            for (int i = 0; i < from * from; i++) d[i] = get(at[i] + c);
            both(f, from, to, d, done);
            for (int i = 0; i < to * to; i++) put(v + i * point + t * ROW(channels) + c, done[i]);
        }
    }
}

INLINE void write_tiles(line *f, int from, int to, const tiling *g, long first, long count, const float *m, long point,
                        const float *bias, float *y, long N) {
    for (long t = 0; t < count; t++) {
        place here = place_of(g, first + t);
        long top = here.row * to, left = here.column * to;
        long high = least(to, g->height - top), wide = least(to, g->width - left);
        float *corner = y + ((here.picture * g->height + top) * g->width + left) * N;
        for (long n = 0; n < N; n += LANES) {
            floats d[36], done[16], add = bias ? get(bias + n) : (floats){0};
            for (int i = 0; i < from * from; i++) d[i] = get(m + i * point + t * ROW(N) + n);
            both(f, from, to, d, done);
            for (int i = 0; i < high; i++)
                for (int j = 0; j < wide; j++) put(corner + (i * g->width + j) * N + n, done[to * i + j] + add);
        }
    }
}

/* Of a tile whose side is 2 or 4 pixels of what comes out. */
static long points_of(long tile) { return (tile + 2) * (tile + 2); }

/* Tiles that a thread takes at once: few, so that what it makes of them stays in its cache; more where filters are
   large, since they are read once for each. */
static long tiles_at_once(long tiles, long K, long N, int threads) {
    long most = K * N <= 64 * 64 ? 24 : K * N <= 128 * 128 ? 48 : 96;
    long rounds = (tiles + most * threads - 1) / (most * threads);
    long even = (tiles + rounds * threads - 1) / (rounds * threads);
    return (even + HIGH - 1) / HIGH * HIGH;
}

static long scratch(long points, long tiles, long channels) {
    return points * (tiles * ROW(channels) + SKEW) + 8 * SKEW;
}

/* How pictures that go in and come out, of height x width and H x W pixels, are cut. Returns the number of tiles. */
static long cut(long tile, long B, long height, long width, long H, long W, long pad, tiling *in, tiling *out) {
    long rows = (H + tile - 1) / tile, columns = (W + tile - 1) / tile;
    *in = (tiling){B, height, width, rows, columns, tile, pad};
    *out = (tiling){B, H, W, rows, columns, tile, 0};
    return B * rows * columns;
}

/* Floats of work that `convolve` needs for an output of H x W. */
long convolve_work(long tile, long B, long H, long W, long K, long N, int threads) {
    tiling in, out;
    long P = points_of(tile), most = tiles_at_once(cut(tile, B, 0, 0, H, W, 0, &in, &out), K, N, threads);
    return K + P * K * N + threads * (scratch(P, most, K) + scratch(P, most, N));
}

/* By a team of threads: filters (N, K, 3, 3), in memory as `strides` say, in floats, to (blocks of N, P, K, block). */
static void transform_filters(long tile, const float *w, const long *strides, long K, long N, float *u) {
    long large = K * N >= 128 * 256, P = points_of(tile);
#pragma omp for collapse(2) schedule(static) nowait
    for (long k = 0; k < K; k += GRAIN)
        for (long n = 0; n < N; n += GRAIN) {
            /* A line of memory holds what many of these need, so they are fetched together; and whole lines are put. */
            floats near[GRAIN][GRAIN / LANES][9];
            const float *from = w + n * strides[0] + k * strides[1];
            for (int i = 0; i < 9; i++)
                for (int l = 0; l < GRAIN; l++)
                    for (int m = 0; m < GRAIN; m++)
                        near[m][l / LANES][i][l % LANES] =
                            from[l * strides[0] + m * strides[1] + i / 3 * strides[2] + i % 3 * strides[3]];
            long begin = n / (WIDE * LANES) * (WIDE * LANES), width = least(WIDE * LANES, N - begin);
            for (int m = 0; m < GRAIN; m++) {
                floats done[GRAIN / LANES][36];
                float *to = u + begin * P * K + (k + m) * width + n - begin;
                for (int v = 0; v < GRAIN / LANES; v++)
                    if (tile == 2) both(filters_2, 3, 4, near[m][v], done[v]);
                    else both(filters_4, 3, 6, near[m][v], done[v]);
                for (int i = 0; i < P; i++)
                    for (int v = 0; v < GRAIN / LANES; v++) {
                        float *place = to + i * K * width + v * LANES;
                        if (large) put_past_caches(place, done[v][i]);
                        else put(place, done[v][i]);
                    }
            }
        }
    end_of_puts();
#pragma omp barrier
}

/* x (B, height, width, K) by filters w, in memory as `strides` say, to y (B, H, W, N); stride 1. */
void convolve(long tile, const float *x, const float *w, const long *strides, const float *bias, float *y, long B,
              long height, long width, long H, long W, long K, long N, long pad, float *work, int threads) {
    tiling in, out;
    long P = points_of(tile), tiles = cut(tile, B, height, width, H, W, pad, &in, &out);
    long most = tiles_at_once(tiles, K, N, threads), v_point = most * ROW(K) + SKEW, m_point = most * ROW(N) + SKEW;
    float *u = work, *zeros = u + P * K * N, *each = zeros + K; /* zeros for what lies outside a picture */
    memset(zeros, 0, K * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        float *v = each + omp_get_thread_num() * (scratch(P, most, K) + scratch(P, most, N));
        float *m = v + scratch(P, most, K);
        transform_filters(tile, w, strides, K, N, u);
#pragma omp for schedule(static)
        for (long first = 0; first < tiles; first += most) {
            long count = least(most, tiles - first);
            if (tile == 2) read_tiles(inputs_2, 4, 4, &in, first, count, x, K, zeros, v, v_point);
            else read_tiles(inputs_4, 6, 6, &in, first, count, x, K, zeros, v, v_point);
            for (int p = 0; p < P; p++)
                for (long n = 0; n < N; n += WIDE * LANES) {
                    long part = least(WIDE * LANES, N - n);
                    blocks(part / LANES, count, v + p * v_point, ROW(K), 1, u + (n * P + p * part) * K, part,
                           m + p * m_point + n, ROW(N), K, 0);
                }
            if (tile == 2) write_tiles(outputs_2, 4, 2, &out, first, count, m, m_point, bias, y, N);
            else write_tiles(outputs_4, 6, 4, &out, first, count, m, m_point, bias, y, N);
        }
    }
}

static long tiles_in_sum(long K, long N) { return K * N <= 128 * 128 ? 96 : 192; }

static long whole_rows(long K) { return (K + HIGH - 1) / HIGH * HIGH; }

/* Floats of work that `filters_gradient` needs. */
long filters_gradient_work(long tile, long K, long N) {
    long P = points_of(tile), most = tiles_in_sum(K, N);
    return K + N + scratch(P, most, K) + scratch(P, most, N) + P * whole_rows(K) * N;
}

/* What x (B, height, width, K) and the gradient y (B, H, W, N) of a convolution's output give for its filters
   (N, K, 3, 3), in memory as `strides` say. */
void filters_gradient(long tile, const float *x, const float *y, float *w, const long *strides, long B, long height,
                      long width, long H, long W, long K, long N, long pad, float *work, int threads) {
    tiling in, out;
    long P = points_of(tile), tiles = cut(tile, B, height, width, H, W, pad, &in, &out);
    long most = tiles_in_sum(K, N);
    float *zeros = work, *v = zeros + K + N, *m = v + scratch(P, most, K), *u = m + scratch(P, most, N);
    long v_point = most * ROW(K) + SKEW, m_point = most * ROW(N) + SKEW, u_point = whole_rows(K) * N;
    memset(zeros, 0, (K + N) * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        for (long first = 0; first < tiles; first += most) {
            long count = least(most, tiles - first), begin = count * me / all, mine = count * (me + 1) / all - begin;
            float *v_mine = v + begin * ROW(K), *m_mine = m + begin * ROW(N);
            if (tile == 2) {
                read_tiles(inputs_2, 4, 4, &in, first + begin, mine, x, K, zeros, v_mine, v_point);
                read_tiles(gradients_2, 2, 4, &out, first + begin, mine, y, N, zeros, m_mine, m_point);
            } else {
                read_tiles(inputs_4, 6, 6, &in, first + begin, mine, x, K, zeros, v_mine, v_point);
                read_tiles(gradients_4, 4, 6, &out, first + begin, mine, y, N, zeros, m_mine, m_point);
            }
#pragma omp barrier
#pragma omp for collapse(2) schedule(static)
            for (int p = 0; p < P; p++)
                for (long n = 0; n < N; n += WIDE * LANES)
                    blocks(least(WIDE * LANES, N - n) / LANES, K, v + p * v_point, 1, ROW(K), m + p * m_point + n,
                           ROW(N), u + p * u_point + n, N, count, first > 0);
        }
#pragma omp for collapse(2) schedule(static)
        for (long k = 0; k < K; k += GRAIN)
            for (long n = 0; n < N; n += LANES) {
                floats near[GRAIN][9]; /* as in transform_filters */
                for (int m = 0; m < GRAIN; m++) {
                    floats d[36];
                    for (int i = 0; i < P; i++) d[i] = get(u + i * u_point + (k + m) * N + n);
                    if (tile == 2) both(filters_back_2, 4, 3, d, near[m]);
                    else both(filters_back_4, 6, 3, d, near[m]);
                }
                float *to = w + n * strides[0] + k * strides[1];
                for (int i = 0; i < 9; i++)
                    for (int l = 0; l < LANES; l++)
                        for (int m = 0; m < GRAIN; m++)
                            to[l * strides[0] + m * strides[1] + i / 3 * strides[2] + i % 3 * strides[3]] =
                                near[m][i][l];
            }
    }
}
