/* Products of a few rows of activations with a matrix of narrow weights, as fast as the weights can be read.

   A weight is widened in a register and meets up to eight rows of activations there, so that the matrix is read once
   for all of them. Each output has one accumulator of LANES floats, filled in the order of k: it has the same bits
   whatever the number of rows and of threads, if the compiler makes no other operations of those written here.

   y (m, n) = x (m, k) times w (n, k) transposed, each row of w multiplied by its scale, plus bias. A scale or a bias
   that is NULL is left out. */

#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

#if defined(__AVX512F__) || !defined(__AVX2__)
#define LANES 16
#else
#define LANES 8
#endif
#define AHEAD 6144 /* bytes: rows are too short for the processor to guess what is read next */
#define INLINE static inline __attribute__((always_inline))
#define EACH(i, count) _Pragma("GCC unroll 8") for (int i = 0; i < count; i++)

typedef float floats __attribute__((vector_size(4 * LANES)));

INLINE floats read_float(const float *p) {
    floats v;
    memcpy(&v, p, sizeof v);
    return v;
}

#ifdef __AVX512F__ /* what compilers make of the general form here is several times slower */

INLINE floats wide_bf16(const uint16_t *p) {
    return (floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}

INLINE floats wide_int8(const int8_t *p) {
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

INLINE floats multiply_add(floats a, floats b, floats c) {
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

INLINE float total(floats v) { return _mm512_reduce_add_ps((__m512)v); }

#elif defined(__AVX2__) && defined(__FMA__)

INLINE floats wide_bf16(const uint16_t *p) {
    return (floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}

INLINE floats wide_int8(const int8_t *p) {
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

INLINE floats multiply_add(floats a, floats b, floats c) {
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

INLINE float total(floats v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

#else

typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

INLINE floats wide_bf16(const uint16_t *p) {
    shorts v;
    memcpy(&v, p, sizeof v);
    return (floats)(__builtin_convertvector(v, words) << 16);
}

INLINE floats wide_int8(const int8_t *p) {
    bytes v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, floats);
}

INLINE floats multiply_add(floats a, floats b, floats c) { return a * b + c; }

INLINE float total(floats v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

#endif

INLINE float one_bf16(uint16_t weight) {
    uint32_t word = (uint32_t)weight << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

INLINE float one_int8(int8_t weight) { return weight; }

/* sum (ROWS, M) = w (ROWS, k) times x (M, k) transposed */
#define TILE(NAME, TYPE, WIDE, ONE, ROWS, M)                                                                       \
    INLINE void NAME(const TYPE *w, const float *x, long k, float *sum) {                                          \
        floats acc[ROWS][M];                                                                                       \
        EACH(r, ROWS) EACH(m, M) acc[r][m] = (floats){0};                                                          \
        long i = 0;                                                                                                \
        for (; i + LANES <= k; i += LANES) {                                                                       \
            floats wide[ROWS];                                                                                     \
            EACH(r, ROWS) {                                                                                        \
                wide[r] = WIDE(w + r * k + i);                                                                     \
                __builtin_prefetch((const char *)(w + r * k + i) + AHEAD);                                         \
            }                                                                                                      \
            EACH(m, M) {                                                                                           \
                floats row = read_float(x + m * k + i);                                                            \
                EACH(r, ROWS) acc[r][m] = multiply_add(wide[r], row, acc[r][m]);                                   \
            }                                                                                                      \
        }                                                                                                          \
        EACH(r, ROWS) EACH(m, M) {                                                                                 \
            float s = total(acc[r][m]);                                                                            \
            for (long j = i; j < k; j++) s += ONE(w[r * k + j]) * x[m * k + j];                                    \
            sum[r * M + m] = s;                                                                                    \
        }                                                                                                          \
    }

#define PRODUCT(NAME, TYPE, WIDE, ONE)                                                                             \
    TILE(NAME##_8x1, TYPE, WIDE, ONE, 8, 1)                                                                        \
    TILE(NAME##_1x1, TYPE, WIDE, ONE, 1, 1)                                                                        \
    TILE(NAME##_2x8, TYPE, WIDE, ONE, 2, 8)                                                                        \
    TILE(NAME##_1x8, TYPE, WIDE, ONE, 1, 8)                                                                        \
    void NAME(const TYPE *w, const float *scale, const float *bias, const float *x, float *y, long n, long k,      \
              long m, int threads) {                                                                               \
        _Pragma("omp parallel for schedule(static) num_threads(threads)")                                          \
        for (long block = 0; block < (n + 7) / 8; block++) {                                                       \
            long first = 8 * block, rows = n - first < 8 ? n - first : 8, j = 0;                                   \
            float sum[16];                                                                                         \
            for (; j + 8 <= m; j += 8) {                                                                           \
                for (long r = 0; r < rows; r += 2) {                                                               \
                    int both = r + 2 <= rows;                                                                      \
                    if (both) NAME##_2x8(w + (first + r) * k, x + j * k, k, sum);                                  \
                    else NAME##_1x8(w + (first + r) * k, x + j * k, k, sum);                                       \
                    for (int a = 0; a < 1 + both; a++) {                                                           \
                        long c = first + r + a;                                                                    \
                        float s = scale ? scale[c] : 1.0f, b = bias ? bias[c] : 0.0f;                              \
                        for (int i = 0; i < 8; i++) y[(j + i) * n + c] = sum[a * 8 + i] * s + b;                   \
                    }                                                                                              \
                }                                                                                                  \
            }                                                                                                      \
            for (; j < m; j++) {                                                                                   \
                if (rows == 8) NAME##_8x1(w + first * k, x + j * k, k, sum);                                       \
                else for (long r = 0; r < rows; r++) NAME##_1x1(w + (first + r) * k, x + j * k, k, sum + r);       \
                for (long r = 0; r < rows; r++) {                                                                  \
                    long c = first + r;                                                                            \
                    y[j * n + c] = sum[r] * (scale ? scale[c] : 1.0f) + (bias ? bias[c] : 0.0f);                   \
                }                                                                                                  \
            }                                                                                                      \
        }                                                                                                          \
    }

PRODUCT(bf16_product, uint16_t, wide_bf16, one_bf16)
PRODUCT(int8_product, int8_t, wide_int8, one_int8)
