/* 3x3 convolutions of stride 1 by Winograd's F(4x4, 3x3), in fp32: what comes out, and the gradients of both sides.

   Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", section 4.3. Four by four pixels that come out
   need six by six that go in. Transformed, the 144 products of each pair of channels are 36; those of all tiles and
   channels are 36 matrix products. The price is rounding: errors of 2e-6 to 8e-6 of the largest output in place of 1e-6.

   The transforms are linear, so a gradient goes back through them transposed. The gradient of what went in needs no code
   of its own: it is a convolution of the other gradient with the filters turned round.

   Pictures are (B, H, W, C) in memory; filters have any strides. K channels are summed over, N come out, both whole
   multiples of GRAIN. P = 36 points of a transformed tile, T tiles. */

#include <omp.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define LANES 16
#define WIDE 4 /* vectors of outputs in a product's innermost block */
#elif defined(__AVX2__)
#define LANES 8
#define WIDE 2
#else
#define LANES 4
#define WIDE 4
#endif
#define HIGH 6 /* rows of it: HIGH x WIDE sums stay in registers */
#define P 36
#define GRAIN 16
#define DEEP 128 /* terms of a sum at a time: what they multiply stays in the first cache */
#define ROW(channels) ((channels) + SKEW)
#define SKEW 16 /* floats between the points of a scratch, or all of them would fall into the same places of the cache */
#define INLINE static inline __attribute__((always_inline))
#define EACH(i, count) _Pragma("GCC unroll 8") for (int i = 0; i < count; i++)

typedef float floats __attribute__((vector_size(4 * LANES)));

INLINE floats get(const float *p) {
    floats v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void put(float *p, floats v) { memcpy(p, &v, sizeof v); }

/* Compilers read a float and then spread it over the vector with the unit that multiplies; one load does both. */
INLINE floats spread(const float *p) {
#if defined(__AVX512F__)
    return (floats)_mm512_set1_ps(*p);
#elif defined(__AVX2__)
    return (floats)_mm256_broadcast_ss(p);
#else
    return (floats){0} + *p;
#endif
}

/* To a place that is not read again before the caches are full of other things, and lies at whole vectors. */
INLINE void put_past_caches(float *p, floats v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)v);
#else
    put(p, v);
#endif
}

static long least(long a, long b) { return a < b ? a : b; }

/* C (HIGH x wide vectors) = A B, or += : A's element (m, k) lies at m a_m + k a_k, rows of B b_k apart, of C c_m. */
INLINE void block(int wide, const float *a, long a_m, long a_k, const float *b, long b_k, float *c, long c_m, long depth,
                  int more) {
    floats sum[HIGH][WIDE];
    EACH(m, HIGH) EACH(n, wide) sum[m][n] = more ? get(c + m * c_m + n * LANES) : (floats){0};
    for (long k = 0; k < depth; k++, a += a_k, b += b_k) {
        floats row[WIDE];
        EACH(n, wide) row[n] = get(b + n * LANES);
        EACH(m, HIGH) {
            floats one = spread(a + m * a_m);
            EACH(n, wide) sum[m][n] += one * row[n];
        }
    }
    EACH(m, HIGH) EACH(n, wide) put(c + m * c_m + n * LANES, sum[m][n]);
}

/* The same for `rows` rows, of which C has room for whole multiples of HIGH, and any number of vectors up to WIDE. */
static void blocks(int wide, long rows, const float *a, long a_m, long a_k, const float *b, long b_k, float *c, long c_m,
                   long depth, int more) {
#define ROWS(w)                                                                                                          \
    for (long k = 0; k < depth; k += DEEP)                                                                               \
        for (long m = 0; m < rows; m += HIGH)                                                                            \
            block(w, a + m * a_m + k * a_k, a_m, a_k, b + k * b_k, b_k, c + m * c_m, c_m, least(DEEP, depth - k), more | (k > 0))
    switch (wide) {
        case 1: ROWS(1); break;
        case 2: ROWS(2); break;
        case 3: ROWS(3); break;
        default: ROWS(WIDE);
    }
}

/* The transforms in one direction; `s` is the distance between the elements of a vector. */

INLINE void inputs6(const floats *d, int s, floats *v, int t) { /* B^T d */
    floats a = d[4 * s] - 4 * d[2 * s], b = d[3 * s] - 4 * d[s], c = d[4 * s] - d[2 * s], e = 2 * (d[3 * s] - d[s]);
    v[0] = 4 * d[0] - 5 * d[2 * s] + d[4 * s];
    v[t] = a + b;
    v[2 * t] = a - b;
    v[3 * t] = c + e;
    v[4 * t] = c - e;
    v[5 * t] = 4 * d[s] - 5 * d[3 * s] + d[5 * s];
}

INLINE void outputs4(const floats *m, int s, floats *y, int t) { /* A^T m */
    floats a = m[s] + m[2 * s], b = m[s] - m[2 * s], c = m[3 * s] + m[4 * s], e = m[3 * s] - m[4 * s];
    y[0] = m[0] + a + c;
    y[t] = b + 2 * e;
    y[2 * t] = a + 4 * c;
    y[3 * t] = b + 8 * e + m[5 * s];
}

INLINE void gradients6(const floats *y, int s, floats *m, int t) { /* A y */
    floats a = y[0] + y[2 * s], b = y[s] + y[3 * s], c = y[0] + 4 * y[2 * s], e = 2 * y[s] + 8 * y[3 * s];
    m[0] = y[0];
    m[t] = a + b;
    m[2 * t] = a - b;
    m[3 * t] = c + e;
    m[4 * t] = c - e;
    m[5 * t] = y[3 * s];
}

INLINE void filters6(const floats *g, int s, floats *u, int t) { /* G g */
    floats a = (g[0] + g[2 * s]) * (-1.f / 6), b = g[s] * (-1.f / 6);
    floats c = g[0] * (1.f / 24) + g[2 * s] * (1.f / 6), e = g[s] * (1.f / 12);
    u[0] = g[0] * .25f;
    u[t] = a + b;
    u[2 * t] = a - b;
    u[3 * t] = c + e;
    u[4 * t] = c - e;
    u[5 * t] = g[2 * s];
}

INLINE void filters3(const floats *u, int s, floats *g, int t) { /* G^T u */
    floats a = (u[s] + u[2 * s]) * (-1.f / 6), b = (u[2 * s] - u[s]) * (1.f / 6);
    floats c = u[3 * s] + u[4 * s], e = (u[3 * s] - u[4 * s]) * (1.f / 12);
    g[0] = u[0] * .25f + a + c * (1.f / 24);
    g[t] = b + e;
    g[2 * t] = a + c * (1.f / 6) + u[5 * s];
}

typedef struct {
    long batch, height, width, rows, columns; /* of pictures; tiles of each */
    long pad;                                 /* zeros before the first row and column of what a tile reads */
} tiling;

/* Where the `side` x `side` pixels of a tile lie; `zeros` for those outside the picture. */
INLINE void pixels(const tiling *g, long tile, int side, long pad, const float *x, long channels, const float *zeros,
                   const float **at) {
    long column = tile % g->columns, row = tile / g->columns % g->rows, picture = tile / g->columns / g->rows;
    for (int i = 0; i < side; i++) {
        long h = row * 4 - pad + i;
        for (int j = 0; j < side; j++) {
            long w = column * 4 - pad + j;
            int inside = h >= 0 && h < g->height && w >= 0 && w < g->width;
            at[i * side + j] = inside ? x + ((picture * g->height + h) * g->width + w) * channels : zeros;
        }
    }
}

static void transform_inputs(const tiling *g, long first, long count, const float *x, long K, const float *zeros,
                             float *v, long point) {
    for (long t = 0; t < count; t++) {
        const float *at[P];
        pixels(g, first + t, 6, g->pad, x, K, zeros, at);
        for (long k = 0; k < K; k += LANES) {
            floats d[P], half[P], done[P];
            for (int i = 0; i < P; i++) d[i] = get(at[i] + k);
            EACH(j, 6) inputs6(d + j, 6, half + j, 6);
            EACH(i, 6) inputs6(half + 6 * i, 1, done + 6 * i, 1);
            for (int i = 0; i < P; i++) put(v + i * point + t * ROW(K) + k, done[i]);
        }
    }
}

static void transform_gradients(const tiling *g, long first, long count, const float *y, long N, const float *zeros,
                                float *m, long point) {
    for (long t = 0; t < count; t++) {
        const float *at[16];
        pixels(g, first + t, 4, 0, y, N, zeros, at);
        for (long n = 0; n < N; n += LANES) {
            floats d[16], half[24], done[P];
            for (int i = 0; i < 16; i++) d[i] = get(at[i] + n);
            EACH(j, 4) gradients6(d + j, 4, half + j, 4);
            EACH(i, 6) gradients6(half + 4 * i, 1, done + 6 * i, 1);
            for (int i = 0; i < P; i++) put(m + i * point + t * ROW(N) + n, done[i]);
        }
    }
}

static void transform_outputs(const tiling *g, long first, long count, const float *m, long point, const float *bias,
                              float *y, long N) {
    for (long t = 0; t < count; t++) {
        long tile = first + t, column = tile % g->columns, row = tile / g->columns % g->rows;
        long picture = tile / g->columns / g->rows;
        long high = least(4, g->height - row * 4), wide = least(4, g->width - column * 4);
        float *corner = y + ((picture * g->height + row * 4) * g->width + column * 4) * N;
        for (long n = 0; n < N; n += LANES) {
            floats d[P], half[24], done[16], add = bias ? get(bias + n) : (floats){0};
            for (int i = 0; i < P; i++) d[i] = get(m + i * point + t * ROW(N) + n);
            EACH(j, 6) outputs4(d + j, 6, half + j, 6);
            EACH(i, 4) outputs4(half + 6 * i, 1, done + 4 * i, 1);
            for (int i = 0; i < high; i++)
                for (int j = 0; j < wide; j++) put(corner + (i * g->width + j) * N + n, done[4 * i + j] + add);
        }
    }
}

/* Tiles that a thread takes at once: few, so that what it makes of them stays in its cache; more where filters are large,
   since they are read once for each. */
static long tiles_at_once(long tiles, long K, long N, int threads) {
    long most = K * N <= 64 * 64 ? 24 : K * N <= 128 * 128 ? 48 : 96;
    long rounds = (tiles + most * threads - 1) / (most * threads), even = (tiles + rounds * threads - 1) / (rounds * threads);
    return (even + HIGH - 1) / HIGH * HIGH;
}

static long scratch(long tiles, long channels) { return P * (tiles * ROW(channels) + SKEW) + 8 * SKEW; }

static tiling tiles_of(long batch, long height, long width, long pad) {
    return (tiling){batch, height, width, (height + 3) / 4, (width + 3) / 4, pad};
}

/* Floats of work that `convolve` needs. H and W are those of what comes out. */
long convolve_work(long B, long H, long W, long K, long N, int threads) {
    long most = tiles_at_once(B * ((H + 3) / 4) * ((W + 3) / 4), K, N, threads);
    return K + threads * (scratch(most, K) + scratch(most, N));
}

/* Filters (N, K, 3, 3) with the strides given, in floats, to (blocks of N, P, K, block): u. */
void transform_filters(const float *w, long w_n, long w_k, long w_i, long w_j, long K, long N, float *u, int threads) {
    int large = K * N >= 128 * 256;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (long k = 0; k < K; k += GRAIN)
        for (long n = 0; n < N; n += LANES) {
            floats near[GRAIN][9]; /* a line of memory holds what many of these need, so they are fetched together */
            for (int i = 0; i < 9; i++)
                for (int l = 0; l < LANES; l++)
                    for (int m = 0; m < GRAIN; m++)
                        near[m][i][l] = w[(n + l) * w_n + (k + m) * w_k + i / 3 * w_i + i % 3 * w_j];
            long begin = n / (WIDE * LANES) * (WIDE * LANES), width = least(WIDE * LANES, N - begin);
            for (int m = 0; m < GRAIN; m++) {
                floats half[18], done[P];
                EACH(j, 3) filters6(near[m] + j, 3, half + j, 3);
                EACH(i, 6) filters6(half + 3 * i, 1, done + 6 * i, 1);
                float *to = u + begin * P * K + (k + m) * width + n - begin;
                if (large)
                    for (int i = 0; i < P; i++) put_past_caches(to + i * K * width, done[i]);
                else
                    for (int i = 0; i < P; i++) put(to + i * K * width, done[i]);
            }
        }
}

/* x (B, height, width, K) by filters u to y (B, H, W, N): H = height + 2 pad - 2. */
void convolve(const float *x, const float *u, const float *bias, float *y, long B, long height, long width, long K, long N,
              long pad, float *work, int threads) {
    tiling in = tiles_of(B, height, width, pad), out = tiles_of(B, height + 2 * pad - 2, width + 2 * pad - 2, 0);
    in.rows = out.rows, in.columns = out.columns;
    long tiles = B * out.rows * out.columns, most = tiles_at_once(tiles, K, N, threads);
    float *zeros = work;
    memset(zeros, 0, K * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        float *v = work + K + omp_get_thread_num() * (scratch(most, K) + scratch(most, N)), *m = v + scratch(most, K);
        long v_point = most * ROW(K) + SKEW, m_point = most * ROW(N) + SKEW;
#pragma omp for schedule(static)
        for (long first = 0; first < tiles; first += most) {
            long count = least(most, tiles - first);
            transform_inputs(&in, first, count, x, K, zeros, v, v_point);
            for (int p = 0; p < P; p++)
                for (long n = 0; n < N; n += WIDE * LANES) {
                    long part = least(WIDE * LANES, N - n);
                    blocks(part / LANES, count, v + p * v_point, ROW(K), 1, u + n * P * K + p * K * part, part,
                           m + p * m_point + n, ROW(N), K, 0);
                }
            transform_outputs(&out, first, count, m, m_point, bias, y, N);
        }
    }
}

static long tiles_in_sum(long K, long N) { return K * N <= 128 * 128 ? 96 : 192; }

/* Floats of work that `filters_gradient` needs. */
long filters_gradient_work(long K, long N) {
    long most = tiles_in_sum(K, N), rows = (K + HIGH - 1) / HIGH * HIGH;
    return (K > N ? K : N) + scratch(most, K) + scratch(most, N) + P * rows * N;
}

/* What x (B, height, width, K) and the gradient y of a convolution's output give for its filters: (3, 3, K, N). */
void filters_gradient(const float *x, const float *y, float *w, long B, long height, long width, long K, long N, long pad,
                      float *work, int threads) {
    tiling in = tiles_of(B, height, width, pad), out = tiles_of(B, height + 2 * pad - 2, width + 2 * pad - 2, 0);
    in.rows = out.rows, in.columns = out.columns;
    long tiles = B * out.rows * out.columns, most = tiles_in_sum(K, N), rows = (K + HIGH - 1) / HIGH * HIGH;
    float *zeros = work, *v = zeros + (K > N ? K : N), *m = v + scratch(most, K), *u = m + scratch(most, N);
    long v_point = most * ROW(K) + SKEW, m_point = most * ROW(N) + SKEW;
    memset(zeros, 0, (K > N ? K : N) * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        for (long first = 0; first < tiles; first += most) {
            long count = least(most, tiles - first), begin = count * me / all, end = count * (me + 1) / all;
            transform_inputs(&in, first + begin, end - begin, x, K, zeros, v + begin * ROW(K), v_point);
            transform_gradients(&out, first + begin, end - begin, y, N, zeros, m + begin * ROW(N), m_point);
#pragma omp barrier
#pragma omp for collapse(2) schedule(static)
            for (int p = 0; p < P; p++)
                for (long n = 0; n < N; n += WIDE * LANES)
                    blocks(least(WIDE * LANES, N - n) / LANES, K, v + p * v_point, 1, ROW(K), m + p * m_point + n, ROW(N),
                           u + p * rows * N + n, N, count, first > 0);
        }
#pragma omp for schedule(static)
        for (long k = 0; k < K; k++)
            for (long n = 0; n < N; n += LANES) {
                floats d[P], half[18], done[9];
                for (int i = 0; i < P; i++) d[i] = get(u + (i * rows + k) * N + n);
                EACH(j, 6) filters3(d + j, 6, half + j, 6);
                EACH(i, 3) filters3(half + 6 * i, 1, done + 3 * i, 1);
                for (int i = 0; i < 9; i++) put(w + (i * K + k) * N + n, done[i]);
            }
    }
}
