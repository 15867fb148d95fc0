/* Vectors of as many floats as the processor has in one, and what the kernels do with them.

   What is written with a vector's own operators compilers do well. Where they do not, the processor's instructions are
   named, for AVX-512 and AVX2; there is a general form of all. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

/* NARROW: as on a processor that has AVX2 alone, to test it on another. */
#if defined(__AVX512F__) && !defined(NARROW)
#define LANES 16
#define HAS_512
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#define HAS_256
#else
#define LANES 4
#endif
#define INLINE static inline __attribute__((always_inline))
#define EACH(i, count) _Pragma("GCC unroll 16") for (int i = 0; i < count; i++)

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

INLINE floats get(const float *p) {
    floats v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void put(float *p, floats v) { memcpy(p, &v, sizeof v); }

/* Compilers read a float and then spread it over the vector with the unit that multiplies; one load does both. */
INLINE floats spread(const float *p) {
#if defined(HAS_512)
    return (floats)_mm512_set1_ps(*p);
#elif defined(HAS_256)
    return (floats)_mm256_broadcast_ss(p);
#else
    return (floats){0} + *p;
#endif
}

/* To a place that is not read again before the caches are full of other things, and lies at whole vectors. */
INLINE void put_past_caches(float *p, floats v) {
#if defined(HAS_512)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(HAS_256)
    _mm256_stream_ps(p, (__m256)v);
#else
    put(p, v);
#endif
}

/* What other threads need of it has to be done before they are met. */
INLINE void end_of_puts(void) {
#if defined(HAS_512) || defined(HAS_256)
    _mm_sfence();
#endif
}

INLINE floats all(float value) { return (floats){0} + value; }

/* The LANES numbers there, or as many as there are and `beyond` in the place of the others */
INLINE floats get_some(const float *p, long there, float beyond) {
    if (there >= LANES) return get(p);
    floats v = all(beyond);
    if (there > 0) memcpy(&v, p, there * sizeof *p);
    return v;
}

INLINE void put_some(float *p, floats v, long there) {
    if (there >= LANES) put(p, v); /* apart, or compilers call a function to copy */
    else if (there > 0) memcpy(p, &v, there * sizeof *p);
}

INLINE ints get_whole(const int32_t *p, long there) {
    ints v = {0};
    if (there >= LANES) memcpy(&v, p, sizeof v);
    else if (there > 0) memcpy(&v, p, there * sizeof *p);
    return v;
}

INLINE floats multiply_add(floats a, floats b, floats c) {
#if defined(HAS_512)
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(HAS_256)
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

INLINE float total(floats v) {
#if defined(HAS_512)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
#endif
}

INLINE floats where(ints chosen, floats a, floats b) { return (floats)(((ints)a & chosen) | ((ints)b & ~chosen)); }

/* Of each pair; where one of the two is no number, b. */
INLINE floats smaller(floats a, floats b) {
#if defined(HAS_512)
    return (floats)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(HAS_256)
    return (floats)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return where(a < b, a, b);
#endif
}

INLINE floats larger(floats a, floats b) {
#if defined(HAS_512)
    return (floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(HAS_256)
    return (floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return where(a > b, a, b);
#endif
}

INLINE float largest_of(floats v) {
#if defined(HAS_512)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float found = v[0];
    for (int i = 1; i < LANES; i++) found = v[i] > found ? v[i] : found;
    return found;
#endif
}

INLINE floats with_sign(floats size, floats of) {
    ints sign = (ints)of & INT32_MIN;
    return (floats)(((ints)size & INT32_MAX) | sign);
}

/* The nearest whole numbers, of numbers below 2^22 in size: adding 2^23 and a half leaves no place for a fraction. */
INLINE ints nearest(floats v) { return (ints)(v + 12582912.0f) - 0x4b400000; }

/* e^x to about two units in the last place; 0 where it would be less than a normal number. */
INLINE floats exponential(floats x) {
    floats in = where(x < all(-87.0f), all(-87.0f), where(x > all(88.0f), all(88.0f), x));
    ints power = __builtin_convertvector(in * 1.44269504f + with_sign(all(0.5f), in), ints);
    floats whole = __builtin_convertvector(power, floats);
    floats r = in - whole * 0.693359375f + whole * 2.12194440e-4f; /* ln 2 in two parts */
    floats y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return where(x < all(-87.0f), all(0), y * (floats)((power + 127) << 23));
}

INLINE floats logistic(floats x) { return 1.0f / (1.0f + exponential(-x)); }

/* 1 / x to a unit or two in the last place, of numbers that are neither very large nor very small */
INLINE floats reciprocal(floats x) {
#if defined(HAS_512)
    floats near = (floats)_mm512_rcp14_ps((__m512)x);
    return near * (2 - x * near);
#else
    return 1 / x;
#endif
}

/* Abramowitz and Stegun 1964, 7.1.28: off by 3e-7 at most */
INLINE floats erf_near(floats x) {
    floats size = smaller(all(9), with_sign(x, all(1)));
    floats y = (((4.30638e-5f * size + 2.765672e-4f) * size + 1.520143e-4f) * size + 9.2705272e-3f) * size;
    y = ((y + 4.22820123e-2f) * size + 7.05230784e-2f) * size + 1;
    y *= y, y *= y, y *= y, y *= y;
    return with_sign(1 - reciprocal(y), x);
}

enum { RELU, GELU, GELU_TANH, SILU, SWIGLU, NO_ACTIVATION };

/* Of a number that no other takes part in. */
INLINE floats activated(floats x, int kind) {
    switch (kind) {
    case RELU: return larger(all(0), x);
    case GELU: return 0.5f * x * (1 + erf_near(x * 0.70710678f));
    case GELU_TANH: /* (1 + tanh u) / 2 is the logistic function of 2 u */
        return x * logistic(1.59576912f * (x + 0.044715f * x * x * x));
    case SILU: return x * logistic(x);
    default: return x;
    }
}
