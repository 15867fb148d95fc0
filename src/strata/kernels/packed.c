/* A Transformer decoder reads one more token of a few texts, as fast as its narrow weights can be read: `gpt_step` is
   all its blocks in one call, `product` one matrix.

   A weight is widened in a register and meets up to eight rows of activations there, so that the matrix is read once
   for all of them. Each output has one accumulator of LANES floats, filled in the order of k: it has the same bits
   whatever the number of rows and of threads, if the compiler makes no other operations of those written here.

   Widening weights of one byte takes longer than reading them. Where the processor multiplies bytes itself (AVX-512
   VNNI) they stay as they are, and the activations become bytes: three for each, see `to_fixed`.

   The threads are OpenMP's, the same ones that torch's own work runs on: those of another pool would have to share the
   processors with torch's, which spin for a while after each operation. */

#include <omp.h>
#include <sched.h>
#include <stdlib.h>

#include "vectors.h"

#define AHEAD 1024 /* bytes, of each stream that is read */

#ifdef HAS_512 /* what compilers make of the general form here is several times slower */

INLINE floats wide_bf16(const uint16_t *p) {
    return (floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}

INLINE floats wide_int8(const int8_t *p) {
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

#elif defined(HAS_256)

INLINE floats wide_bf16(const uint16_t *p) {
    return (floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}

INLINE floats wide_int8(const int8_t *p) {
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
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

#endif

INLINE float one_bf16(uint16_t weight) {
    uint32_t word = (uint32_t)weight << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

INLINE float one_int8(int8_t weight) { return weight; }

INLINE float one_fp32(float weight) { return weight; }

/* sum (ROWS, M) = w (ROWS, k), whose rows lie `apart` from each other, times x (M, k) transposed */
#define TILE(NAME, TYPE, WIDE, ONE, ROWS, M)                                                                       \
    INLINE void NAME(const TYPE *w, long apart, const float *x, long k, float *sum) {                              \
        const long line = 64 / sizeof(TYPE);                                                                       \
        floats acc[ROWS][M];                                                                                       \
        EACH(r, ROWS) EACH(m, M) acc[r][m] = (floats){0};                                                          \
        long i = 0;                                                                                                \
        for (; i + line <= k; i += line) {                                                                         \
            EACH(r, ROWS) __builtin_prefetch((const char *)(w + r * apart + i) + AHEAD);                           \
            EACH(part, line / LANES) STEP(WIDE, ROWS, M, i + part * LANES)                                         \
        }                                                                                                          \
        for (; i + LANES <= k; i += LANES) STEP(WIDE, ROWS, M, i)                                                  \
        EACH(r, ROWS) EACH(m, M) {                                                                                 \
            float s = total(acc[r][m]);                                                                            \
            for (long j = i; j < k; j++) s += ONE(w[r * apart + j]) * x[m * k + j];                                \
            sum[r * M + m] = s;                                                                                    \
        }                                                                                                          \
    }

#define STEP(WIDE, ROWS, M, at)                                                                                    \
    {                                                                                                              \
        floats wide[ROWS];                                                                                         \
        EACH(r, ROWS) wide[r] = WIDE(w + r * apart + (at));                                                        \
        EACH(m, M) {                                                                                               \
            floats row = get(x + m * k + (at));                                                             \
            EACH(r, ROWS) acc[r][m] = multiply_add(wide[r], row, acc[r][m]);                                       \
        }                                                                                                          \
    }

enum { FP32, BF16, INT8 };

struct matrix {
    const void *weight; /* (outputs, inputs) */
    const float *scale, *bias;
    const int32_t *sum; /* of each output's weights; of INT8 alone */
    int64_t outputs, inputs, type;
};

INLINE void finish(const struct matrix *a, float *y, long c, float sum, int adds) {
    sum = sum * (a->scale ? a->scale[c] : 1.0f) + (a->bias ? a->bias[c] : 0.0f);
    y[c] = adds ? y[c] + sum : sum;
}

/* y (m, n) = x (m, k) times w (n, k) transposed, each row of w times its scale, plus bias, plus y itself if it adds. A
   scale or a bias that is NULL is left out.

   The tiles from begin to end alone: eight outputs each, an eighth of all apart. So eight long streams are read, which
   the processor recognises and reads ahead of the program, faster than one stream. The outputs that are left over are
   the last tile. */
#define PRODUCT(NAME, TYPE, WIDE, ONE)                                                                             \
    TILE(NAME##_8x1, TYPE, WIDE, ONE, 8, 1)                                                                        \
    TILE(NAME##_2x8, TYPE, WIDE, ONE, 2, 8)                                                                        \
    TILE(NAME##_1x8, TYPE, WIDE, ONE, 1, 8)                                                                        \
    TILE(NAME##_1x1, TYPE, WIDE, ONE, 1, 1)                                                                        \
    static void NAME(const struct matrix *a, const float *x, float *y, long m, int adds, long begin, long end) {   \
        const TYPE *w = a->weight;                                                                                 \
        long n = a->outputs, k = a->inputs, eighth = n / 8, apart = eighth * k, j;                                 \
        float sum[16];                                                                                             \
        for (long c = begin; c < end && c < eighth; c++) {                                                         \
            for (j = 0; j + 8 <= m; j += 8)                                                                        \
                for (int r = 0; r < 8; r += 2) {                                                                   \
                    NAME##_2x8(w + c * k + r * apart, apart, x + j * k, k, sum);                                   \
                    EACH(i, 8) finish(a, y + (j + i) * n, c + r * eighth, sum[i], adds);                           \
                    EACH(i, 8) finish(a, y + (j + i) * n, c + (r + 1) * eighth, sum[8 + i], adds);                 \
                }                                                                                                  \
            for (; j < m; j++) {                                                                                   \
                NAME##_8x1(w + c * k, apart, x + j * k, k, sum);                                                   \
                EACH(r, 8) finish(a, y + j * n, c + r * eighth, sum[r], adds);                                     \
            }                                                                                                      \
        }                                                                                                          \
        for (long c = 8 * eighth; c < n && end > eighth; c++) {                                                    \
            for (j = 0; j + 8 <= m; j += 8) {                                                                      \
                NAME##_1x8(w + c * k, 0, x + j * k, k, sum);                                                       \
                EACH(i, 8) finish(a, y + (j + i) * n, c, sum[i], adds);                                            \
            }                                                                                                      \
            for (; j < m; j++) {                                                                                   \
                NAME##_1x1(w + c * k, 0, x + j * k, k, sum);                                                       \
                finish(a, y + j * n, c, sum[0], adds);                                                             \
            }                                                                                                      \
        }                                                                                                          \
    }

PRODUCT(fp32_product, float, get, one_fp32)
PRODUCT(bf16_product, uint16_t, wide_bf16, one_bf16)
#ifndef __AVX512VNNI__
PRODUCT(int8_product, int8_t, wide_int8, one_int8)
#endif

#define PLANES 3
#define MOST 8388352.0f /* below 2^23 by more than rounding may add */

static long room_of(long k) { return (k + 63) / 64 * 64; }

#ifdef __AVX512VNNI__

/* Activations as whole numbers of 24 bits, of which the largest takes all: as many as a float has for it. `planes`
   (PLANES, room) gets their bytes, the lowest first, of the number plus 2^23, since one side of VNNI's products has no
   sign. Return what a number of 1 stands for: NaN where not all are finite. */
static float to_fixed(const float *x, uint8_t *planes, long k) {
    __m512 most = _mm512_setzero_ps(), finite = _mm512_setzero_ps();
    for (long i = 0; i < k; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(k - i < 16 ? (1u << (k - i)) - 1 : 0xffff, x + i);
        most = _mm512_max_ps(most, _mm512_abs_ps(v));
        finite = _mm512_fmadd_ps(v, _mm512_setzero_ps(), finite);
    }
    const float largest = _mm512_reduce_max_ps(most);
    const long room = room_of(k);
    __m512 factor = _mm512_set1_ps(largest < 1e-30f ? 0 : MOST / largest);
    for (long i = 0; i < k; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(k - i < 16 ? (1u << (k - i)) - 1 : 0xffff, x + i);
        __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(v, factor)), _mm512_set1_epi32(1 << 23));
        for (int p = 0; p < PLANES; p++, whole = _mm512_srli_epi32(whole, 8))
            _mm_storeu_si128((__m128i *)(planes + p * room + i), _mm512_cvtepi32_epi8(whole));
    }
    return largest / MOST + _mm512_reduce_add_ps(finite);
}

/* The sums of eight accumulators */
INLINE __m256i totals(const __m512i *a) {
    __m512i pair[4], four[2];
    EACH(i, 4) pair[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]),
                                          _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]));
    EACH(i, 2) four[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(pair[2 * i], pair[2 * i + 1]),
                                          _mm512_unpackhi_epi64(pair[2 * i], pair[2 * i + 1]));
    __m512i half = _mm512_add_epi32(_mm512_shuffle_i64x2(four[0], four[1], 0x88),
                                    _mm512_shuffle_i64x2(four[0], four[1], 0xdd));
    half = _mm512_shuffle_i64x2(half, half, 0xd8);
    return _mm256_add_epi32(_mm512_castsi512_si256(half), _mm512_extracti64x4_epi64(half, 1));
}

/* sum (PLANES, 8) = planes (PLANES, room) times eight rows of w transposed */
INLINE void fixed_tile(const int8_t *w, long apart, const uint8_t *planes, long k, int32_t *sum) {
    const long room = room_of(k);
    __m512i acc[PLANES][8];
    EACH(p, PLANES) EACH(r, 8) acc[p][r] = _mm512_setzero_si512();
    for (long i = 0; i < k; i += 64) {
        const __mmask64 there = k - i < 64 ? (1ull << (k - i)) - 1 : ~0ull;
        __m512i plane[PLANES];
        EACH(p, PLANES) plane[p] = _mm512_loadu_si512(planes + p * room + i);
        EACH(r, 8) {
            __builtin_prefetch((const char *)(w + r * apart + i) + AHEAD);
            __m512i line = _mm512_maskz_loadu_epi8(there, w + r * apart + i);
            EACH(p, PLANES) acc[p][r] = _mm512_dpbusd_epi32(acc[p][r], plane[p], line);
        }
    }
    EACH(p, PLANES) _mm256_storeu_si256((__m256i *)(sum + p * 8), totals(acc[p]));
}

INLINE void fixed_finish(const struct matrix *a, float *y, long c, const int32_t *sum, float one, int adds) {
    int64_t whole = sum[0] + ((int64_t)sum[8] << 8) + ((int64_t)sum[16] << 16) - ((int64_t)a->sum[c] << 23);
    finish(a, y, c, (float)whole * one, adds);
}

/* As the product of floats, of activations that `to_fixed` made: (m, PLANES, room), and what 1 stands for in each row.
   All sums are exact. */
static void fixed_product(const struct matrix *a, const uint8_t *planes, const float *one, float *y, long m, int adds,
                          long begin, long end) {
    const int8_t *w = a->weight;
    long n = a->outputs, k = a->inputs, eighth = n / 8, apart = eighth * k, row = PLANES * room_of(k);
    int32_t sum[PLANES * 8];
    for (long c = begin; c < end && c < eighth; c++)
        for (long j = 0; j < m; j++) {
            fixed_tile(w + c * k, apart, planes + j * row, k, sum);
            EACH(r, 8) fixed_finish(a, y + j * n, c + r * eighth, sum + r, one[j], adds);
        }
    for (long c = 8 * eighth; c < n && end > eighth; c++)
        for (long j = 0; j < m; j++) {
            fixed_tile(w + c * k, 0, planes + j * row, k, sum);
            fixed_finish(a, y + j * n, c, sum, one[j], adds);
        }
}

#endif

/* Work is split beforehand, a range for each thread, and whoever is done takes from what others have not begun. So a
   thread that the system does not let run, as on a busy machine, holds nobody up but with the piece it has in hand. */

struct counter {
    long value;
    char apart[64 - sizeof(long)]; /* no two in one cache line */
};

struct thread {
    long number, threads;
    struct counter *counters; /* of the next work that is shared: threads + 1 of them, zero */
    float *normed, *scores;   /* its own memory */
    uint8_t *planes;
    float *one;
    int is_ready;             /* what it calculated for itself, for the work at hand */
};

typedef void work(struct thread *self, const void *job, long begin, long end);

static void share(struct thread *self, work *work, const void *job, long items, long grain) {
    struct counter *taken = self->counters, *done = taken + self->threads;
    long pieces = (items + grain - 1) / grain, mine = 0;
    self->counters = done + 1;
    self->is_ready = 0;
    for (long i = 0; i < self->threads; i++) {
        long owner = (self->number + i) % self->threads;
        long first = pieces * owner / self->threads, last = pieces * (owner + 1) / self->threads, piece;
        while ((piece = first + __atomic_fetch_add(&taken[owner].value, 1, __ATOMIC_RELAXED)) < last) {
            long begin = piece * grain;
            work(self, job, begin, begin + grain < items ? begin + grain : items);
            mine++;
        }
    }
    __atomic_add_fetch(&done->value, mine, __ATOMIC_ACQ_REL);
    for (long spins = 0; __atomic_load_n(&done->value, __ATOMIC_ACQUIRE) < pieces; spins++)
        if (spins > 4096) sched_yield(); /* someone's piece lies with a thread that does not run */
}

struct norm {
    const float *weight, *bias; /* weight NULL: no norm */
    float eps;
    int32_t is_layer; /* else root mean square */
};

static float dot(const float *a, const float *b, long n) {
    floats acc = {0};
    long i = 0;
    for (; i + LANES <= n; i += LANES) acc = multiply_add(get(a + i), get(b + i), acc);
    float sum = total(acc);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void normalize(const struct norm *norm, const float *x, float *y, long n) {
    float mean = 0;
    if (norm->is_layer) {
        floats acc = {0};
        long i = 0;
        for (; i + LANES <= n; i += LANES) acc += get(x + i);
        mean = total(acc);
        for (; i < n; i++) mean += x[i];
        mean /= n;
    }
    for (long i = 0; i < n; i++) y[i] = x[i] - mean;
    float factor = 1 / sqrtf(dot(y, y, n) / n + norm->eps);
    for (long i = 0; i < n; i++) y[i] = y[i] * factor * norm->weight[i] + (norm->bias ? norm->bias[i] : 0);
}

struct product_job {
    const struct matrix *matrix;
    const struct norm *norm; /* of the inputs; NULL: none */
    const float *x;
    float *y;
    long rows;
    int adds;
};

static void multiply(struct thread *self, const void *given, long begin, long end) {
    const struct product_job *job = given;
    const struct matrix *a = job->matrix;
    const float *x = job->norm ? self->normed : job->x;
    if (!self->is_ready) /* by each thread for itself, which takes less time than to wait for one of them */
        for (long row = 0; row < job->rows; row++) {
            if (job->norm) normalize(job->norm, job->x + row * a->inputs, self->normed + row * a->inputs, a->inputs);
#ifdef __AVX512VNNI__
            uint8_t *planes = self->planes + row * PLANES * room_of(a->inputs);
            if (a->type == INT8) self->one[row] = to_fixed(x + row * a->inputs, planes, a->inputs);
#endif
        }
    self->is_ready = 1;
    if (a->type == BF16) bf16_product(a, x, job->y, job->rows, job->adds, begin, end);
    else if (a->type == FP32) fp32_product(a, x, job->y, job->rows, job->adds, begin, end);
#ifdef __AVX512VNNI__
    else fixed_product(a, self->planes, self->one, job->y, job->rows, job->adds, begin, end);
#else
    else int8_product(a, x, job->y, job->rows, job->adds, begin, end);
#endif
}

#define TILES 2 /* that a thread takes at once */

static void multiplied(struct thread *self, const struct matrix *a, const struct norm *norm, const float *x, float *y,
                       long rows, int adds) {
    struct product_job job = {a, norm, x, y, rows, adds};
    share(self, multiply, &job, a->outputs / 8 + (a->outputs % 8 > 0), TILES);
}

INLINE void put_bytes(int8_t *p, ints v, long there) {
#ifdef HAS_512
    __m128i narrow = _mm512_cvtepi32_epi8((__m512i)v);
#else
    int8_t narrow[LANES];
    for (int i = 0; i < LANES; i++) narrow[i] = v[i];
#endif
    if (there >= LANES) memcpy(p, &narrow, LANES);
    else memcpy(p, &narrow, there);
}

struct activate_job {
    float *x; /* (rows, width), and for SwiGLU (rows, 2, width) */
    float *y; /* (rows, width) */
    long width, kind;
};

static void activate(struct thread *self, const void *given, long begin, long end) {
    const struct activate_job *job = given;
    (void)self;
    while (begin < end) {
        long row = begin / job->width, place = begin % job->width;
        long n = end - begin < job->width - place ? end - begin : job->width - place;
        const float *x = job->x + row * job->width * (job->kind == SWIGLU ? 2 : 1) + place;
        float *y = job->y + row * job->width + place;
        begin += n;
        for (long i = 0; i < n; i += LANES) {
            floats in = get_some(x + i, n - i, 0);
            floats out = job->kind == SWIGLU ? activated(in, SILU) * get_some(x + i + job->width, n - i, 0)
                                             : activated(in, job->kind);
            put_some(y + i, out, n - i);
        }
    }
}

struct block {
    struct norm norm1, norm2, query_norm, key_norm;
    struct matrix qkv, out, up, down;
    int64_t window; /* places that are looked back on, its own among them; 0: all */
};

struct gpt {
    int64_t layers, width, heads, kv_heads, head_width, hidden_width, activation;
    const struct block *blocks;
    struct norm norm;
    const float *slopes; /* of ALiBi, one a head; NULL: none */
};

struct step {
    float *x;                  /* (rows, width): embeddings, then the residual stream, and normed at the end */
    float *key, *value;        /* (layers, rows, kv_heads, length, head_width) */
    const float *cos, *sin;    /* of rotary positions: (head_width), every `angle_stride` numbers those of a row */
    const uint8_t *real;       /* (rows, length): not 0 where a place holds a token; NULL: all do */
    int64_t angle_stride, rows, length, position;
};

struct attention_job {
    const struct gpt *g;
    const struct step *s;
    const struct block *block;
    float *key, *value; /* the layer's */
    const float *qkv;   /* (rows, heads + 2 kv_heads, head_width) */
    float *y;           /* (rows, heads, head_width) */
};

/* A head's queries or keys: normed and turned by the angles of their place, where the network does so. */
static void placed(const struct attention_job *job, const struct norm *norm, const float *x, float *y, long row) {
    long width = job->g->head_width, half = width / 2;
    float kept[width];
    const float *in = x;
    if (norm->weight) normalize(norm, x, kept, width), in = kept;
    if (!job->s->cos) {
        memcpy(y, in, width * sizeof *y);
        return;
    }
    const float *cos = job->s->cos + row * job->s->angle_stride, *sin = job->s->sin + row * job->s->angle_stride;
    for (long i = 0; i < half; i++) {
        y[i] = in[i] * cos[i] - in[i + half] * sin[i];
        y[i + half] = in[i + half] * cos[i + half] + in[i] * sin[i + half];
    }
}

/* y (width) = p (n) times v (n, width) */
static void weighted(const float *p, const float *v, float *y, long n, long width) {
    long c = 0;
    for (; c + 4 * LANES <= width; c += 4 * LANES) {
        floats acc[4] = {{0}};
        for (long s = 0; s < n; s++) {
            floats share = (floats){0} + p[s];
            EACH(i, 4) acc[i] = multiply_add(share, get(v + s * width + c + i * LANES), acc[i]);
        }
        memcpy(y + c, acc, sizeof acc);
    }
    for (; c + LANES <= width; c += LANES) {
        floats acc = {0};
        for (long s = 0; s < n; s++) acc = multiply_add((floats){0} + p[s], get(v + s * width + c), acc);
        memcpy(y + c, &acc, sizeof acc);
    }
    for (; c < width; c++) {
        float sum = 0;
        for (long s = 0; s < n; s++) sum += p[s] * v[s * width + c];
        y[c] = sum;
    }
}

/* One head of one text looks at its places up to the new one, whose key and value the first head of a group stores;
   the group's others, which may come first, calculate the key for themselves. */
static void attend(struct thread *self, const void *given, long begin, long end) {
    const struct attention_job *job = given;
    const struct gpt *g = job->g;
    const struct step *s = job->s;
    long width = g->head_width, group = g->heads / g->kv_heads, now = s->position;
    long window = job->block->window, from = window && now + 1 > window ? now + 1 - window : 0, count = now - from;
    float query[width], key[width], *score = self->scores, factor = 1 / sqrtf((float)width);
    for (long item = begin; item < end; item++) {
        long row = item / g->heads, head = item % g->heads, kv_head = head / group;
        const float *qkv = job->qkv + row * (g->heads + 2 * g->kv_heads) * width;
        const float *value = qkv + (g->heads + g->kv_heads + kv_head) * width;
        const uint8_t *real = s->real ? s->real + row * s->length + from : NULL;
        long memory = ((row * g->kv_heads + kv_head) * s->length) * width;
        const float *keys = job->key + memory + from * width, *values = job->value + memory + from * width;
        float *y = job->y + item * width, slope = g->slopes ? g->slopes[head] : 0;
        placed(job, &job->block->query_norm, qkv + head * width, query, row);
        placed(job, &job->block->key_norm, qkv + (g->heads + kv_head) * width, key, row);
        for (long i = 0; i < width; i++) query[i] *= factor;
        if (head % group == 0) {
            memcpy(job->key + memory + now * width, key, sizeof key);
            memcpy(job->value + memory + now * width, value, sizeof key);
        }
        float own = dot(query, key, width), most = own, sum;
        for (long i = 0; i < count; i++) {
            score[i] = real && !real[i] ? -INFINITY : dot(query, keys + i * width, width) - slope * (count - i);
            most = score[i] > most ? score[i] : most;
        }
        floats sums = {0};
        for (long i = 0; i < count; i += LANES) {
            floats power = exponential(get_some(score + i, count - i, -INFINITY) - most);
            put_some(score + i, power, count - i);
            sums += power;
        }
        own = exponential(all(own - most))[0];
        sum = own + total(sums);
        weighted(score, values, y, count, width);
        for (long i = 0; i < width; i++) y[i] = (y[i] + own * value[i]) / sum;
    }
}

#define WORKS 6 /* that the threads share in a block */

static void read_along(struct thread *self, const struct gpt *g, const struct step *s, float *qkv, float *looked,
                       float *hidden, float *active) {
    for (long layer = 0; layer < g->layers; layer++) {
        const struct block *block = g->blocks + layer;
        long memory = layer * s->rows * g->kv_heads * s->length * g->head_width;
        struct attention_job look = {g, s, block, s->key + memory, s->value + memory, qkv, looked};
        struct activate_job act = {hidden, active, g->hidden_width, g->activation};
        multiplied(self, &block->qkv, &block->norm1, s->x, qkv, s->rows, 0);
        share(self, attend, &look, s->rows * g->heads, 1);
        multiplied(self, &block->out, NULL, looked, s->x, s->rows, 1);
        multiplied(self, &block->up, &block->norm2, s->x, hidden, s->rows, 0);
        share(self, activate, &act, s->rows * g->hidden_width, 512);
        multiplied(self, &block->down, NULL, active, s->x, s->rows, 1);
    }
}

/* Threads that pay for a matrix: to begin together takes as long as one of them reads this many bytes. */
static int useful(const struct matrix *a, int threads) {
    static const int size[] = {4, 2, 1};
    int64_t most = 1 + a->outputs * a->inputs * size[a->type] / (128 << 10);
    return most < threads ? (int)most : threads;
}

static long lines(long numbers) { return (numbers + 15) / 16 * 16; } /* floats in whole cache lines */

/* Floats that a thread keeps for its planes and what 1 stands for in each. */
static long of_planes(long rows, long k) { return rows * PLANES * room_of(k) / 4 + lines(rows); }

/* Return 0, or 1 where there is no memory. */
int gpt_step(const struct gpt *g, const struct step *s, int threads) {
    threads = useful(&g->blocks->up, threads);
    long of_heads = lines(s->rows * g->heads * g->head_width), of_hidden = lines(s->rows * g->hidden_width);
    long of_qkv = lines(s->rows * (g->heads + 2 * g->kv_heads) * g->head_width);
    long read = g->heads * g->head_width, most = g->hidden_width > read ? g->hidden_width : read;
    long own_normed = lines(s->rows * g->width), own_scores = lines(s->position + 1);
    long own_planes = of_planes(s->rows, most > g->width ? most : g->width), own = own_normed + own_scores + own_planes;
    size_t count = g->layers * WORKS * (threads + 1), all = of_qkv + of_heads + 3 * of_hidden + threads * own;
    struct counter *counters = calloc(count, sizeof *counters);
    float *memory = malloc(all * sizeof *memory);
    if (!counters || !memory) {
        free(counters), free(memory);
        return 1;
    }
    float *qkv = memory, *looked = qkv + of_qkv, *hidden = looked + of_heads, *active = hidden + 2 * of_hidden;
#pragma omp parallel num_threads(threads)
    {
        long number = omp_get_thread_num();
        float *normed = active + of_hidden + number * own;
        float *scores = normed + own_normed, *planes = scores + own_scores, *one = planes + own_planes - lines(s->rows);
        struct thread self = {number, omp_get_num_threads(), counters, normed, scores, (uint8_t *)planes, one, 0};
        read_along(&self, g, s, qkv, looked, hidden, active);
    }
    for (long row = 0; row < s->rows; row++) {
        float *x = s->x + row * g->width;
        normalize(&g->norm, x, x, g->width);
    }
    free(counters), free(memory);
    return 0;
}

/* y (rows, outputs) of x (rows, inputs). Return 0, or 1 where there is no memory. */
int product(const struct matrix *matrix, const float *x, float *y, long rows, int threads) {
    threads = useful(matrix, threads);
    long own = of_planes(rows, matrix->inputs);
    struct counter *counters = calloc(threads + 1, sizeof *counters);
    float *memory = malloc(threads * own * sizeof *memory);
    if (!counters || !memory) {
        free(counters), free(memory);
        return 1;
    }
#pragma omp parallel num_threads(threads)
    {
        long number = omp_get_thread_num();
        float *planes = memory + number * own, *one = planes + own - lines(rows);
        struct thread self = {number, omp_get_num_threads(), counters, NULL, NULL, (uint8_t *)planes, one, 0};
        multiplied(&self, matrix, NULL, x, y, rows, 0);
    }
    free(counters), free(memory);
    return 0;
}

/* What torch's product of bytes begins with and ends with, for many rows of activations. */

/* Activations (rows, k) as whole numbers of two bytes, of which each row's largest takes all; `low` is what `high` left
   over. `one` gets what a number of 1 of `low` stands for, NaN where a row's are not all finite. */
void to_bytes(const float *x, int8_t *high, int8_t *low, float *one, long rows, long k, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < rows; row++) {
        const float *in = x + row * k;
        floats most = {0}, finite = {0};
        for (long i = 0; i < k; i += LANES) {
            floats v = get_some(in + i, k - i, 0);
            most = larger(with_sign(v, all(1)), most);
            finite += v * 0;
        }
        const float largest = largest_of(most), steps = 127 * 256, factor = largest < 1e-30f ? 0 : steps / largest;
        one[row] = largest / steps + total(finite);
        for (long i = 0; i < k; i += LANES) {
            ints whole = nearest(larger(get_some(in + i, k - i, 0) * factor, all(-steps)));
            ints rest = whole << 24 >> 24;
            put_bytes(low + row * k + i, rest, k - i);
            put_bytes(high + row * k + i, (whole - rest) >> 8, k - i);
        }
    }
}

/* y (rows, outputs) of sums of products of bytes; it may lie where `high` does. */
void from_bytes(const struct matrix *a, const int32_t *high, const int32_t *low, const float *one, float *y, long rows,
                int threads) {
    long n = a->outputs;
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < n; i += LANES) {
            long there = n - i;
            floats sum = __builtin_convertvector(get_whole(high + row * n + i, there), floats) * 256;
            sum += __builtin_convertvector(get_whole(low + row * n + i, there), floats);
            sum = sum * one[row] * get_some(a->scale + i, there, 0);
            if (a->bias) sum += get_some(a->bias + i, there, 0);
            put_some(y + row * n + i, sum, there);
        }
}
