/* Convolutions and linear layers of bytes, for answering, where the processor multiplies them (AVX-512 VNNI, AVX-VNNI):
   four products and sums in the place of one of fp32.

   Weights are whole numbers from -127 to 127, a scale for each output. Activations are made bytes picture by picture, or
   row by row, so that an answer does not depend on the batch it comes in: from 0 to 255 of a picture's largest where
   none is below zero, as after a ReLU, and else 128 more than -127 to 127 of the largest. The instruction wants one side
   without sign. Sums are exact; the zero's share in them, `zero` times the sum of an output's weights, is taken off at
   the end.

   Pictures are (B, H, W, C) in memory. C channels are summed over, padded to whole multiples of GROUP; N come out. A
   thread multiplies TALL places by WIDE vectors of outputs at a time. Places of a line lie `step` bytes apart. With
   stride 1 the whole padded picture is one line, of which those at the ends of rows are not written: so small maps fill
   the tiles too. */

#include <omp.h>

#include "vectors.h"

#define GROUP 4 /* bytes that an instruction sums into one number */
#define WIDE 2  /* vectors of outputs */
#ifdef HAS_512
#define TALL 14 /* places: TALL x WIDE sums stay in registers, and 14 divides the maps of pictures of 224 pixels */
#else
#define TALL 6
#endif
#define BLOCK (WIDE * LANES)
#define WEIGHTS_KEPT (512 << 10) /* bytes at a time, which stay in the second cache with */
#define ROWS_KEPT (384 << 10)    /* bytes of activations */
#define STREAMED (2 << 20)       /* bytes of answers that the caches would not keep until they are read */

/* sum += four bytes without sign in each place of `a`, times four with sign of `b` */
INLINE ints four_products(ints sum, ints a, ints b) {
#if defined(HAS_512)
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVXVNNI__)
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#else
    return (ints)_mm256_dpbusd_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#endif
}

/* Numbers from 0 to 255 as bytes */
INLINE void put_bytes(uint8_t *p, ints v, long there) {
#ifdef HAS_512
    __m128i bytes = _mm512_cvtepi32_epi8((__m512i)v);
#else
    __m128i half = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    __m128i bytes = _mm_packus_epi16(half, half);
#endif
    if (there >= LANES) memcpy(p, &bytes, LANES);
    else memcpy(p, &bytes, there);
}

/* Outputs that the kernel has in hand at a time, and whose weights lie together. */
long outputs_of_block(void) { return BLOCK; }

struct sizes {
    int64_t pictures, height, width, channels, out_height, out_width, outputs;
    int64_t kernel_height, kernel_width, stride, padding, dilation, activation;
};

static long padded(long channels) { return (channels + GROUP - 1) / GROUP * GROUP; }

/* Bytes of one picture's activations; the last tile reads beyond the last place. */
static long of_picture(const struct sizes *s) {
    long pixels = (s->height + 2 * s->padding) * (s->width + 2 * s->padding);
    return ((pixels + TALL * s->stride) * padded(s->channels) + 63) / 64 * 64;
}

/* Bytes of scratch for some threads: a picture of each, and what each has found of its range. */
long convolve_bytes_work(const struct sizes *s, int threads) { return threads * (of_picture(s) + 64); }

struct range {
    float low, high;
};

static struct range range_of(const float *x, long count) {
    floats negative = all(0), high = all(0), finite = all(0);
    for (long i = 0; i < count; i += LANES) {
        floats v = get_some(x + i, count - i, 0);
        negative = larger(-v, negative), high = larger(v, high), finite += v * 0;
    }
    float not_finite = total(finite); /* 0, or no number */
    return (struct range){-largest_of(negative) + not_finite, largest_of(high) + not_finite};
}

static void bytes_of(const float *x, uint8_t *y, long count, float factor, int zero) {
    for (long i = 0; i < count; i += LANES) {
        floats v = get_some(x + i, count - i, 0) * factor;
        put_bytes(y + i, nearest(larger(v, all(-127))) + zero, count - i); /* what is no number becomes one here */
    }
}

/* Rows from `begin` to `end` of the padded picture. */
static void quantize(const struct sizes *s, const float *x, uint8_t *bytes, float factor, int zero, long begin,
                     long end) {
    long channels = padded(s->channels), width = s->width + 2 * s->padding, edge = s->padding * channels;
    for (long row = begin; row < end; row++) {
        uint8_t *y = bytes + row * width * channels;
        long from = row - s->padding;
        if (from < 0 || from >= s->height) {
            memset(y, zero, width * channels);
            continue;
        }
        memset(y, zero, edge), memset(y + (s->padding + s->width) * channels, zero, edge);
        const float *in = x + from * s->width * s->channels;
        if (channels == s->channels) {
            bytes_of(in, y + edge, s->width * channels, factor, zero);
            continue;
        }
        for (long place = 0; place < s->width; place++) {
            memset(y + edge + place * channels, zero, channels);
            bytes_of(in + place * s->channels, y + edge + place * channels, s->channels, factor, zero);
        }
    }
}

/* Lines of places: how many, how long, and how many tiles each has. */
struct lines {
    long count, places, tiles;
};

static struct lines lines_of(const struct sizes *s) {
    const int is_one = s->stride == 1;
    const long width = s->width + 2 * s->padding;
    const long places = is_one ? (s->out_height - 1) * width + s->out_width : s->out_width;
    return (struct lines){is_one ? 1 : s->out_height, places, (places + TALL - 1) / TALL};
}

/* sum (TALL, WIDE) = places times weights of a block: (kernel's places, groups of channels, WIDE, LANES, GROUP) */
INLINE void multiply(const struct sizes *s, const uint8_t *bytes, const int8_t *weights, ints sum[TALL][WIDE]) {
    const long channels = padded(s->channels), step = s->stride * channels;
    const long width = s->width + 2 * s->padding;
    ints acc[TALL][WIDE]; /* not `sum` itself, which is read by a number that compilers do not know */
    EACH(i, TALL) EACH(j, WIDE) acc[i][j] = (ints){0};
    for (long ky = 0; ky < s->kernel_height; ky++)
        for (long kx = 0; kx < s->kernel_width; kx++) {
            const uint8_t *at[(TALL + 2) / 3]; /* one for three places: there are registers for so many */
            EACH(i, (TALL + 2) / 3) at[i] = bytes + s->dilation * (ky * width + kx) * channels + 3 * i * step;
            for (long c = 0; c < channels; c += GROUP, weights += GROUP * BLOCK) {
                floats weight[WIDE];
                EACH(j, WIDE) weight[j] = get((const float *)(weights + j * LANES * GROUP));
                EACH(i, TALL) {
                    floats place = spread((const float *)(at[i / 3] + i % 3 * step + c)); /* four bytes */
                    EACH(j, WIDE) acc[i][j] = four_products(acc[i][j], (ints)place, (ints)weight[j]);
                }
            }
        }
    EACH(i, TALL) EACH(j, WIDE) sum[i][j] = acc[i][j];
}

struct answer {
    const float *scale, *bias; /* of outputs; bias may be NULL */
    const int32_t *weight_sum;
    const float *one; /* what an activation's 1 stands for: in all places, or in each */
    int zero, is_each, streams;
};

static int streams(const struct sizes *s, const float *y) {
    const long written = s->pictures * s->out_height * s->out_width * s->outputs * (long)sizeof *y;
    return written > STREAMED && s->outputs % BLOCK == 0 && (uintptr_t)y % 64 == 0;
}

/* What a block's sums become: the same for all places. */
struct ending {
    ints share[WIDE];
    floats scale[WIDE], bias[WIDE];
    long there;
    int is_whole, streams;
};

INLINE struct ending ending_of(const struct sizes *s, const struct answer *a, long first) {
    struct ending e = {.there = s->outputs - first, .is_whole = s->outputs - first >= BLOCK, .streams = a->streams};
    EACH(j, WIDE) {
        const long n = first + j * LANES, left = s->outputs - n;
        e.share[j] = get_whole(a->weight_sum + n, left) * a->zero;
        e.scale[j] = get_some(a->scale + n, left, 0);
        e.bias[j] = a->bias ? get_some(a->bias + n, left, 0) : all(0);
    }
    return e;
}

INLINE void write(const struct ending *e, const ints sum[WIDE], float one, float *y, int activation) {
    EACH(j, WIDE) {
        floats v = __builtin_convertvector(sum[j] - e->share[j], floats);
        v = activated(multiply_add(v, e->scale[j] * one, e->bias[j]), activation);
        if (e->streams) put_past_caches(y + j * LANES, v);
        else if (e->is_whole) put(y + j * LANES, v);
        else put_some(y + j * LANES, v, e->there - j * LANES);
    }
}

static void write_any(const struct ending *e, const ints sum[WIDE], float one, float *y, long activation) {
    switch (activation) {
    case RELU: write(e, sum, one, y, RELU); break;
    case GELU: write(e, sum, one, y, GELU); break;
    case GELU_TANH: write(e, sum, one, y, GELU_TANH); break;
    case SILU: write(e, sum, one, y, SILU); break;
    default: write(e, sum, one, y, NO_ACTIVATION);
    }
}

/* Tiles from `begin` to `end` of a picture, each with all outputs; as many at a time as whose weights stay in the second
   cache, so that what is written lies together. */
static void tiles(const struct sizes *s, const struct answer *a, const uint8_t *bytes, const int8_t *weights, float *y,
                  long begin, long end) {
    const long channels = padded(s->channels), width = s->width + 2 * s->padding;
    const long of_output = s->kernel_height * s->kernel_width * channels;
    const long at_once = of_output * BLOCK > WEIGHTS_KEPT ? BLOCK : WEIGHTS_KEPT / (of_output * BLOCK) * BLOCK;
    const struct lines lines = lines_of(s);
    for (long from = 0; from < s->outputs; from += at_once) {
        const long to = from + at_once < s->outputs ? from + at_once : s->outputs;
        for (long tile = begin; tile < end; tile++) {
            const long line = tile / lines.tiles, first = tile % lines.tiles * TALL;
            const uint8_t *places_at = bytes + s->stride * (line * width + first) * channels;
            for (long n = from; n < to; n += BLOCK) {
                ints sum[TALL][WIDE];
                multiply(s, places_at, weights + n * of_output, sum);
                const struct ending e = ending_of(s, a, n);
                long row = line + first / width, column = first % width; /* a line of several is no longer than a row */
                for (long i = 0; i < TALL && first + i < lines.places; i++, column++) {
                    if (column == width) row++, column = 0;
                    const long place = row * s->out_width + column;
                    if (column < s->out_width)
                        write_any(&e, sum[i], a->one[a->is_each * place], y + place * s->outputs + n, s->activation);
                }
            }
        }
    }
    end_of_puts();
}

/* A picture's share of one of `sharers` threads, which all come here together; `bytes` and `ranges` are theirs. */
static void convolve_part(const struct sizes *s, struct answer answer, const float *x, const int8_t *weights, float *y,
                          uint8_t *bytes, struct range *ranges, long part, long sharers) {
    const long of_input = s->height * s->width * s->channels, rows = s->height + 2 * s->padding;
    const long all = lines_of(s).count * lines_of(s).tiles;
    const long first = of_input * part / sharers, last = of_input * (part + 1) / sharers;
    struct range range = ranges[part] = range_of(x + first, last - first);
    if (sharers > 1) {
#pragma omp barrier
        range = ranges[0];
        for (long i = 1; i < sharers; i++) { /* what is no number stays so */
            range.low = ranges[i].low < range.low ? ranges[i].low : range.low + 0 * ranges[i].low;
            range.high = ranges[i].high > range.high ? ranges[i].high : range.high + 0 * ranges[i].high;
        }
    }
    const float largest = -range.low > range.high ? -range.low : range.high, steps = range.low < 0 ? 127 : 255;
    const float one = largest / steps + 0 * range.low;
    answer.one = &one, answer.zero = range.low < 0 ? 128 : 0;
    quantize(s, x, bytes, largest < 1e-30f ? 0 : steps / largest, answer.zero, rows * part / sharers,
             rows * (part + 1) / sharers);
    if (sharers > 1) {
#pragma omp barrier
    }
    tiles(s, &answer, bytes, weights, y, all * part / sharers, all * (part + 1) / sharers);
    if (sharers > 1) {
#pragma omp barrier
    }
}

/* y (B, H', W', N) of x (B, H, W, C). A thread does whole pictures; the last ones, fewer than threads, all do together. */
void convolve_bytes(const struct sizes *s, const float *x, const int8_t *weights, const float *scale, const float *bias,
                    const int32_t *weight_sum, float *y, uint8_t *work, int threads) {
    const long of_input = s->height * s->width * s->channels, of_output = s->out_height * s->out_width * s->outputs;
    const long room = of_picture(s);
    struct range *ranges = (struct range *)(work + threads * room);
    const struct answer answer = {scale, bias, weight_sum, NULL, 0, 0, streams(s, y)};
#pragma omp parallel num_threads(threads)
    {
        const long number = omp_get_thread_num(), count = omp_get_num_threads();
        const long alone = s->pictures - s->pictures % count;
#pragma omp for schedule(dynamic)
        for (long i = 0; i < alone; i++)
            convolve_part(s, answer, x + i * of_input, weights, y + i * of_output, work + number * room,
                          ranges + number, 0, 1);
        for (long i = alone; i < s->pictures; i++)
            convolve_part(s, answer, x + i * of_input, weights, y + i * of_output, work, ranges, number, count);
    }
}

static long rows_at_once(const struct sizes *s) {
    long tiles = ROWS_KEPT / (TALL * padded(s->channels));
    return (tiles < 1 ? 1 : tiles > 16 ? 16 : tiles) * TALL;
}

/* Bytes of scratch for some threads. */
long multiply_bytes_work(const struct sizes *s, int threads) {
    return threads * (((rows_at_once(s) + TALL) * (padded(s->channels) + (long)sizeof(float)) + 63) / 64 * 64);
}

/* y (rows, N) of x (rows, C), each of its rows with a scale of its own: rows are s->width. */
void multiply_bytes(const struct sizes *s, const float *x, const int8_t *weights, const float *scale, const float *bias,
                    const int32_t *weight_sum, float *y, uint8_t *work, int threads) {
    const long tall = rows_at_once(s), channels = padded(s->channels), room = multiply_bytes_work(s, 1);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long from = 0; from < s->width; from += tall) {
        float *one = (float *)(work + omp_get_thread_num() * room);
        uint8_t *bytes = (uint8_t *)(one + tall + TALL);
        struct sizes part = *s;
        part.width = part.out_width = s->width - from < tall ? s->width - from : tall;
        for (long row = 0; row < part.width; row++) {
            const float *in = x + (from + row) * s->channels;
            const struct range range = range_of(in, s->channels);
            const float largest = -range.low > range.high ? -range.low : range.high;
            one[row] = largest / 127 + 0 * range.low;
            if (channels > s->channels) memset(bytes + (row + 1) * channels - GROUP, 128, GROUP);
            bytes_of(in, bytes + row * channels, s->channels, largest < 1e-30f ? 0 : 127 / largest, 128);
        }
        const struct answer a = {scale, bias, weight_sum, one, 128, 1, streams(s, y)};
        tiles(&part, &a, bytes, weights, y + from * s->outputs, 0, lines_of(&part).tiles);
    }
}
