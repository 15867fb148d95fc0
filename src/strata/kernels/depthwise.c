/* Both gradients of depthwise convolutions, each of whose outputs reads one channel, with channels last.

   What bounds such a convolution is the loading of numbers, so each thread first copies what it needs of one vector of
   channels: close together, in fp32, with zeros in the columns around. A sum of products then reads whole vectors in
   order, whatever the numbers' type, how many channels there are, and where the picture ends. Rows outside a picture
   are never visited.

   Pictures are (B, H, W, C) in memory, filters (C, kernel height, kernel width). Results have the same bits with any
   number of threads. */

#include <omp.h>

#include "vectors.h"

#define NEAR (16 * 1024) /* floats that a thread copies at a time, where a row of outputs needs no more */
#define SHARED (128 * 1024) /* numbers of all channels that such copies come from: they stay in the second cache */
#define GROUPS 16 /* parts of a batch that are summed apart, at most: work for many threads, and small errors */
#define IN_GROUP 512 /* terms of a sum, at least, or adding the groups would cost too much */
#define WIDEST 11 /* columns of a filter */
#define WIDE 8 /* pixels next to each other, whose sums stay in registers */

typedef struct {
    int64_t batch, height, width, out_height, out_width, channels, kernel_height, kernel_width, stride_down,
        stride_across, pad_top, pad_left, is_bf16;
} sizes;

typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

static long least(long a, long b) { return a < b ? a : b; }
static long most(long a, long b) { return a > b ? a : b; }

/* a / b rounded up, of any a and b > 0 */
static long up(long a, long b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

static long vectors_of(const sizes *s) { return up(s->channels, LANES); }
static long points_of(const sizes *s) { return s->kernel_height * s->kernel_width; }

/* A bf16 number is the upper half of an fp32 one. */
INLINE floats widened(halves v) { return (floats)(__builtin_convertvector(v, ints) << 16); }

/* The nearest of them, the even one of two; NaNs stay so, since those that bf16 numbers give have no lower bits. */
INLINE halves narrowed(floats v) {
    ints bits = (ints)v, even = (bits >> 16) & 1;
    return __builtin_convertvector(((bits + 0x7fff + even) >> 16) & 0xffff, halves);
}

/* Up to a vector of numbers of either type, with zeros in place of those that are not there */
INLINE floats read(const void *from, long at, long there, int is_bf16) {
    if (!is_bf16) return get_some((const float *)from + at, there, 0);
    halves v = {0};
    if (there >= LANES) memcpy(&v, (const uint16_t *)from + at, sizeof v);
    else memcpy(&v, (const uint16_t *)from + at, there * sizeof(uint16_t));
    return widened(v);
}

INLINE void write(void *to, long at, floats v, long there, int is_bf16) {
    if (!is_bf16) {
        put_some((float *)to + at, v, there);
        return;
    }
    halves h = narrowed(v);
    if (there >= LANES) memcpy((uint16_t *)to + at, &h, sizeof h);
    else memcpy((uint16_t *)to + at, &h, there * sizeof(uint16_t));
}

INLINE void copy_typed(const void *from, long at, long rows, long width, long channels, long there, long before,
                       long columns, float *to, int is_bf16) {
    long end = most(before, least(columns, before + width));
    for (long row = 0; row < rows; row++, to += columns * LANES) {
        long j = 0, here = at + row * width * channels;
        for (; j < least(before, columns); j++) put(to + j * LANES, all(0));
        for (; j < end; j++, here += channels) put(to + j * LANES, read(from, here, there, is_bf16));
        for (; j < columns; j++) put(to + j * LANES, all(0));
    }
}

/* Rows of a picture, one vector of channels, `before` zeros to their left and as many to the right as fill columns.
   The first number is the one at `at`; `there` channels are left from it. */
static void copy(const void *from, long at, long rows, long width, long channels, long there, long before, long columns,
                 float *to, int is_bf16) {
    if (is_bf16 && there >= LANES) copy_typed(from, at, rows, width, channels, LANES, before, columns, to, 1);
    else if (is_bf16) copy_typed(from, at, rows, width, channels, there, before, columns, to, 1);
    else if (there >= LANES) copy_typed(from, at, rows, width, channels, LANES, before, columns, to, 0);
    else copy_typed(from, at, rows, width, channels, there, before, columns, to, 0);
}

/* How the filters' gradient is summed. Nothing here depends on the number of threads. */
typedef struct {
    long groups, pictures, rows; /* parts of the batch; pictures, and rows of outputs, that are copied at a time */
    long columns, x_rows, scratch; /* of a copy of what went in, and floats of both copies */
} plan;

static plan plan_of(const sizes *s) {
    plan p;
    long outputs = s->out_height * s->out_width;
    p.groups = most(1, least(least(s->batch, GROUPS), s->batch * outputs / IN_GROUP));
    p.columns = (s->out_width - 1) * s->stride_across + s->kernel_width;
    p.x_rows = s->height;
    long picture = (s->height * p.columns + outputs) * LANES;
    if (picture <= NEAR) {
        p.pictures = most(1, least(NEAR / picture, SHARED / ((s->height * s->width + outputs) * s->channels)));
        p.pictures = least(p.pictures, s->batch);
        p.rows = s->out_height;
    } else {
        long row = (s->stride_down * p.columns + s->out_width) * LANES, first = s->kernel_height * p.columns * LANES;
        p.pictures = 1;
        p.rows = least(s->out_height, most(1, (NEAR - first) / row));
        p.x_rows = least(s->height, (p.rows - 1) * s->stride_down + s->kernel_height);
    }
    p.scratch = p.pictures * (p.x_rows * p.columns + p.rows * s->out_width) * LANES;
    return p;
}

/* One row of a filter's gradient: sums over rows of outputs of some pictures. The row of what went in that meets the
   first row of outputs is at x. */
INLINE void sum_row(int kernel_width, long step, const float *x, long x_row, long x_picture, const float *g, long g_row,
                    long g_picture, long width, long rows, long pictures, float *to) {
    floats sum[WIDEST];
    EACH(j, kernel_width) sum[j] = all(0);
    for (long b = 0; b < pictures; b++)
        for (long row = 0; row < rows; row++) {
            const float *a = x + b * x_picture + row * x_row, *of = g + b * g_picture + row * g_row;
            for (long i = 0; i < width; i++, a += step, of += LANES) {
                floats one = get(of);
                EACH(j, kernel_width) sum[j] = multiply_add(one, get(a + j * LANES), sum[j]);
            }
        }
    EACH(j, kernel_width) put(to + j * LANES, get(to + j * LANES) + sum[j]);
}

/* A filter's gradient from copies: of what went in from row x_first on, and of rows of outputs from first on. */
static void sum_rows(const sizes *s, const plan *p, const float *x, const float *g, long x_first, long first,
                     long rows, long pictures, float *to) {
    long x_row = p->columns * LANES, g_row = s->out_width * LANES;
    for (long k = 0; k < s->kernel_height; k++, to += s->kernel_width * LANES) {
        long above = s->pad_top - k; /* outputs from `low` to before `high` meet a row inside */
        long low = most(first, up(above, s->stride_down));
        long high = least(first + rows, up(s->height + above, s->stride_down));
        if (high <= low) continue;
        const float *a = x + (low * s->stride_down - above - x_first) * x_row, *of = g + (low - first) * g_row;
#define OF_WIDTH(w) \
    case w: \
        sum_row(w, s->stride_across * LANES, a, s->stride_down * x_row, p->x_rows * x_row, of, g_row, p->rows * g_row, \
                s->out_width, high - low, pictures, to); \
        break
        switch (s->kernel_width) {
            OF_WIDTH(1); OF_WIDTH(2); OF_WIDTH(3); OF_WIDTH(4); OF_WIDTH(5); OF_WIDTH(6);
            OF_WIDTH(7); OF_WIDTH(8); OF_WIDTH(9); OF_WIDTH(10); OF_WIDTH(WIDEST);
        }
    }
}

/* Floats of work that `filters_gradient` needs. */
long filters_gradient_work(const sizes *s, int threads) {
    plan p = plan_of(s);
    return p.groups * vectors_of(s) * points_of(s) * LANES + threads * p.scratch;
}

/* What x, which went in, and the gradient of what came out give for the filters, which are in fp32. */
void filters_gradient(const sizes *s, const void *x, const void *gradient, float *filters, float *work, int threads) {
    plan p = plan_of(s);
    long vectors = vectors_of(s), points = points_of(s), C = s->channels;
    long parts = p.groups % threads ? least(vectors, threads) : 1;
    float *sums = work, *each = work + p.groups * vectors * points * LANES;
#pragma omp parallel num_threads(threads)
    {
        float *x_near = each + omp_get_thread_num() * p.scratch;
        float *g_near = x_near + p.pictures * p.x_rows * p.columns * LANES;
#pragma omp for collapse(2) schedule(static)
        for (long group = 0; group < p.groups; group++)
            for (long part = 0; part < parts; part++) {
                long begin = s->batch * group / p.groups, end = s->batch * (group + 1) / p.groups;
                long from = vectors * part / parts, to = vectors * (part + 1) / parts;
                float *mine = sums + group * vectors * points * LANES;
                memset(mine + from * points * LANES, 0, (to - from) * points * LANES * sizeof(float));
                for (long b = begin; b < end; b += p.pictures)
                    for (long row = 0; row < s->out_height; row += p.rows) {
                        long pictures = least(p.pictures, end - b), rows = least(p.rows, s->out_height - row);
                        long first = most(0, row * s->stride_down - s->pad_top);
                        long last = (row + rows - 1) * s->stride_down - s->pad_top + s->kernel_height;
                        long x_rows = least(s->height, last) - first;
                        for (long v = from; v < to; v++) {
                            long c = v * LANES, there = least(LANES, C - c);
                            for (long i = 0; i < pictures; i++) {
                                long x_at = ((b + i) * s->height + first) * s->width * C + c;
                                long g_at = ((b + i) * s->out_height + row) * s->out_width * C + c;
                                copy(x, x_at, x_rows, s->width, C, there, s->pad_left, p.columns,
                                     x_near + i * p.x_rows * p.columns * LANES, s->is_bf16);
                                copy(gradient, g_at, rows, s->out_width, C, there, 0, s->out_width,
                                     g_near + i * p.rows * s->out_width * LANES, s->is_bf16);
                            }
                            sum_rows(s, &p, x_near, g_near, first, row, rows, pictures, mine + v * points * LANES);
                        }
                    }
            }
#pragma omp for collapse(2) schedule(static)
        for (long v = 0; v < vectors; v++)
            for (long i = 0; i < points; i++) {
                floats sum = all(0);
                for (long group = 0; group < p.groups; group++)
                    sum += get(sums + ((group * vectors + v) * points + i) * LANES);
                for (long l = 0; l < least(LANES, C - v * LANES); l++) filters[(v * LANES + l) * points + i] = sum[l];
            }
    }
}

/* `count` pixels of one row of the gradient of what went in, a stride apart. They read the same points of the filter:
   `taps` of each of `rows` rows, and of the rows of g at `g` and `g_back` floats before, and so on. */
INLINE void pixels(int count, const float *g, long g_back, const float *filter, long filter_row, long filter_step,
                   long rows, long taps, floats *sum) {
    EACH(i, count) sum[i] = all(0);
    for (long k = 0; k < rows; k++, g -= g_back, filter += filter_row)
        for (long m = 0; m < taps; m++) {
            floats one = get(filter + m * filter_step);
            EACH(i, count) sum[i] = multiply_add(one, get(g + (i - m) * LANES), sum[i]);
        }
}

/* How the gradient of what went in is made: rows of it at a time, and the copy of the other gradient. */
typedef struct {
    long rows, before, columns, g_rows;
} reach;

static reach reach_of(const sizes *s) {
    reach r;
    r.before = (s->kernel_width - 1) / s->stride_across;
    r.columns = r.before + (s->width - 1 + s->pad_left) / s->stride_across + 1;
    long fit = most(1, NEAR / (r.columns * LANES)), more = (s->kernel_height - 1) / s->stride_down + 1;
    r.rows = least(s->height, most(1, (fit - more) * s->stride_down));
    r.g_rows = least(s->out_height, (r.rows - 1) / s->stride_down + 1 + more);
    return r;
}

/* Floats of work that `input_gradient` needs. */
long input_gradient_work(const sizes *s, int threads) {
    reach r = reach_of(s);
    return vectors_of(s) * points_of(s) * LANES + threads * r.g_rows * r.columns * LANES;
}

/* A row of the gradient of what went in. Pixels whose place, counted with the padding, leaves the same rest when
   divided by the stride are a convolution of stride 1 by every stride-th point of the filter. */
static void input_row(const sizes *s, const reach *r, long row, const float *g, long g_first, const float *filter,
                      void *to, long at, long there) {
    long g_row = r->columns * LANES, down = s->stride_down, across = s->stride_across;
    long place = row + s->pad_top;
    /* Of the filter's rows place % down, + down, ..., the first k reads the gradient's row (place - k) / down. */
    long first = most(place % down, place - (s->out_height - 1) * down), end = least(s->kernel_height, place + 1);
    long rows = end > first ? up(end - first, down) : 0;
    const float *g_at = g + ((place - first) / down - g_first) * g_row;
    for (long rest = 0; rest < across; rest++) {
        long taps = up(s->kernel_width - rest, across), t = up(s->pad_left - rest, across);
        long stop = up(s->width + s->pad_left - rest, across);
        const float *points = filter + (first * s->kernel_width + rest) * LANES;
        while (t < stop) {
            long turns = up(stop - t, WIDE), count = up(stop - t, turns);
            floats sum[WIDE];
#define OF_COUNT(n) \
    case n: \
        pixels(n, g_at + (r->before + t) * LANES, g_row, points, down * s->kernel_width * LANES, across * LANES, \
               rows, taps, sum); \
        break
            switch (count) {
                OF_COUNT(1); OF_COUNT(2); OF_COUNT(3); OF_COUNT(4);
                OF_COUNT(5); OF_COUNT(6); OF_COUNT(7); OF_COUNT(8);
            }
            long pixel = at + (rest - s->pad_left + across * t) * s->channels, step = across * s->channels;
            if (s->is_bf16)
                for (long i = 0; i < count; i++) write(to, pixel + i * step, sum[i], there, 1);
            else
                for (long i = 0; i < count; i++) write(to, pixel + i * step, sum[i], there, 0);
            t += count;
        }
    }
}

/* What the gradient of what came out and the filters give for what went in. */
void input_gradient(const sizes *s, const void *gradient, const void *filters, void *to, float *work, int threads) {
    reach r = reach_of(s);
    long vectors = vectors_of(s), points = points_of(s), C = s->channels;
    long parts = s->batch % threads ? least(vectors, threads) : 1;
    float *turned = work, *each = work + vectors * points * LANES;
#pragma omp parallel num_threads(threads)
    {
        float *near = each + omp_get_thread_num() * r.g_rows * r.columns * LANES;
#pragma omp for schedule(static)
        for (long v = 0; v < vectors; v++)
            for (long i = 0; i < points; i++) {
                floats one = all(0);
                for (long l = 0; l < least(LANES, C - v * LANES); l++)
                    one[l] = read(filters, (v * LANES + l) * points + i, 1, s->is_bf16)[0];
                put(turned + (v * points + i) * LANES, one);
            }
#pragma omp for collapse(2) schedule(static)
        for (long b = 0; b < s->batch; b++)
            for (long part = 0; part < parts; part++)
                for (long row = 0; row < s->height; row += r.rows) {
                    long rows = least(r.rows, s->height - row);
                    long first = most(0, up(row + s->pad_top - s->kernel_height + 1, s->stride_down));
                    long end = least(s->out_height, (row + rows - 1 + s->pad_top) / s->stride_down + 1);
                    for (long v = vectors * part / parts; v < vectors * (part + 1) / parts; v++) {
                        long c = v * LANES, there = least(LANES, C - c);
                        long g_at = (b * s->out_height + first) * s->out_width * C + c;
                        copy(gradient, g_at, end - first, s->out_width, C, there, r.before, r.columns, near,
                             s->is_bf16);
                        for (long i = 0; i < rows; i++)
                            input_row(s, &r, row + i, near, first, turned + v * points * LANES, to,
                                      (b * s->height + row + i) * s->width * C + c, there);
                    }
                }
    }
}
