/* A step of sampling with a cache: attention, all layers at once, and the drawing of tokens. What
 * kernels.c says of numbers, threads and scratches holds here, too. */

#include "kernels.h"

/* --- one step of attention with a cache: rotates a new token's queries and keys, stores its keys
 * and values, and attends. Memory sets the pace, so that each part fetches what the next one reads:
 * `next` is of the same size as what is being read --- */

/* Scores of BLOCK positions, whose keys are [width, BLOCK]. */
static inline void score(const float *query, const float *keys, const float *next, float *scores,
                         long width) {
    eight a = {0}, b = {0}, c = {0}, d = {0};
    for (long i = 0; i < width; i++) {
        const float *row = keys + i * BLOCK;
        __builtin_prefetch(next + i * BLOCK);
        __builtin_prefetch(next + i * BLOCK + BLOCK / 2);
        a += query[i] * load8(row);
        b += query[i] * load8(row + 8);
        c += query[i] * load8(row + 16);
        d += query[i] * load8(row + 24);
    }
    store8(scores, a);
    store8(scores + 8, b);
    store8(scores + 16, c);
    store8(scores + 24, d);
}

/* Sum of values [length, width] by their probabilities; width is a multiple of 8. */
static inline void mix(const float *probs, const float *values, const float *next, float *out,
                       long length, long width) {
    long i = 0;
    for (; i + BLOCK <= width; i += BLOCK) {
        eight a = {0}, b = {0}, c = {0}, d = {0};
        for (long t = 0; t < length; t++) {
            const float *row = values + t * width + i;
            __builtin_prefetch(next + t * width + i);
            __builtin_prefetch(next + t * width + i + 16);
            a += probs[t] * load8(row);
            b += probs[t] * load8(row + 8);
            c += probs[t] * load8(row + 16);
            d += probs[t] * load8(row + 24);
        }
        store8(out + i, a);
        store8(out + i + 8, b);
        store8(out + i + 16, c);
        store8(out + i + 24, d);
    }
    for (; i < width; i += 8) { /* four sums, because an addition waits for the one before */
        eight a = {0}, b = {0}, c = {0}, d = {0};
        const float *column = values + i;
        long t = 0;
        for (; t + 4 <= length; t += 4) {
            a += probs[t] * load8(column + t * width);
            b += probs[t + 1] * load8(column + (t + 1) * width);
            c += probs[t + 2] * load8(column + (t + 2) * width);
            d += probs[t + 3] * load8(column + (t + 3) * width);
        }
        for (; t < length; t++) a += probs[t] * load8(column + t * width);
        store8(out + i, (a + b) + (c + d));
    }
}

/* Of the tokens so far and what they were read into: [kv_heads, blocks, width, BLOCK] keys and
 * [kv_heads, blocks · BLOCK, width] values of a slot. */
typedef struct {
    long heads, kv_heads, width, blocks;
} sizes_of_attention;

/* The query heads of one key-value head; `row` has queries, keys and values of the new token, and
 * `scratch` room for a query and its scores. */
static inline void attend_head(const float *row, const float *cos, const float *sin, long position,
                               float *keys, float *values, float *scratch, float *attended, long kv,
                               sizes_of_attention of) {
    long sharing = of.heads / of.kv_heads, width = of.width, room = of.blocks * BLOCK;
    long length = position + 1;
    float *query = scratch, *scores = scratch + width;
    float *own_keys = keys + kv * room * width, *own_values = values + kv * room * width;
    float *column = own_keys + position / BLOCK * BLOCK * width + position % BLOCK;
    rotate_row(row + (of.heads + kv) * width, cos, sin, 1, column, BLOCK, width);
    memcpy(own_values + position * width, row + (of.heads + of.kv_heads + kv) * width,
           width * sizeof(float));
    for (long head = kv * sharing; head < (kv + 1) * sharing; head++) {
        rotate_row(row + head * width, cos, sin, 1, query, 1, width);
        for (long begin = 0; begin < length; begin += BLOCK)
            score(query, own_keys + begin * width, own_values + begin * width, scores + begin,
                  width);
        softmax(scores, length, length, 1 / sqrtf(width));
        mix(scores, own_values, own_keys + room * width, attended + head * width, length, width);
    }
}

void attend_step(const float *qkv, const float *cos, const float *sin, const int64_t *positions,
                 float *keys, float *values, float *scratch, float *attended, long threads,
                 long slots, long heads, long kv_heads, long width, long blocks) {
    sizes_of_attention of = {heads, kv_heads, width, blocks};
    long room = blocks * BLOCK, stored = kv_heads * room * width;
#pragma omp parallel num_threads(threads)
    {
        float *own = scratch + omp_get_thread_num() * (width + room);
#pragma omp for collapse(2) schedule(guided)
        for (long slot = 0; slot < slots; slot++)
            for (long kv = 0; kv < kv_heads; kv++) {
                long position = positions[slot];
                attend_head(qkv + slot * (heads + 2 * kv_heads) * width, cos + position * width,
                            sin + position * width, position, keys + slot * stored,
                            values + slot * stored, own, attended + slot * heads * width, kv, of);
            }
    }
}

/* --- a step of all layers. Slots share nothing but the weights, so that a thread takes its slots
 * from the first layer to the last and waits for nobody. For models so small that the weights stay in
 * the caches. Matrices are strips of WIDTH columns, [in, WIDTH] each, the last one filled up with
 * zeros --- */

typedef struct {
    const float *attention_norm, *qkv, *out, *mlp_norm, *gate_up, *down;
    float *keys, *values; /* of all slots */
} layer;

/* out[rows, columns] = x[rows, in] · matrix, or out + that */
static void product(const float *x, long in, const float *matrix, float *out, long columns,
                    long rows, long depth, int add) {
    for (long j = 0; j < columns; j += WIDTH)
        multiply(x, in, 1, matrix + j * depth, WIDTH, out + j, columns, rows, WIDTH, depth, add);
}

/* x[slots, dim] goes in as embedded tokens and comes out of the last layer. ffn is a multiple of WIDTH
 * with zeros behind ffn_dim; a scratch has room for what `rows` slots need, and for attention. */
void decode_step(float *x, const layer *layers, const float *cos, const float *sin,
                 const int64_t *positions, float *scratch, long threads, long rows, long slots,
                 long num_layers, long heads, long kv_heads, long width, long blocks, long ffn,
                 float eps) {
    sizes_of_attention of = {heads, kv_heads, width, blocks};
    long dim = heads * width, wide = (heads + 2 * kv_heads) * width, room = blocks * BLOCK;
    long widest = wide > 2 * ffn ? wide : 2 * ffn, stored = kv_heads * room * width;
#pragma omp parallel num_threads(threads)
    {
        float *normed = scratch + omp_get_thread_num() * (rows * (dim + widest) + width + room);
        float *made = normed + rows * dim, *own = made + rows * widest;
#pragma omp for schedule(static)
        for (long first = 0; first < slots; first += rows) {
            long count = slots - first < rows ? slots - first : rows;
            float *stream = x + first * dim;
            for (const layer *l = layers; l < layers + num_layers; l++) {
                for (long r = 0; r < count; r++)
                    normalise(stream + r * dim, l->attention_norm, normed + r * dim, dim, eps);
                product(normed, dim, l->qkv, made, wide, count, dim, 0);
                for (long r = 0; r < count; r++)
                    for (long kv = 0; kv < kv_heads; kv++) {
                        long slot = first + r, position = positions[slot];
                        attend_head(made + r * wide, cos + position * width,
                                    sin + position * width, position, l->keys + slot * stored,
                                    l->values + slot * stored, own, normed + r * dim, kv, of);
                    }
                product(normed, dim, l->out, stream, dim, count, dim, 1);
                for (long r = 0; r < count; r++)
                    normalise(stream + r * dim, l->mlp_norm, normed + r * dim, dim, eps);
                product(normed, dim, l->gate_up, made, 2 * ffn, count, dim, 0);
                for (long r = 0; r < count; r++) {
                    float *gate = made + r * 2 * ffn;
                    gated(gate, gate + ffn, gate, ffn);
                }
                product(made, 2 * ffn, l->down, stream, dim, count, ffn, 1);
            }
        }
    }
}

/* --- the next token of each row: the first whose cumulative probability under
 * softmax(logits · inverse_temperature) exceeds the row's number in [0, 1); and its log-probability. A
 * scratch has room for a row. What has no weight is never chosen; of logits that are no numbers comes
 * a log-probability that is none --- */

enum { CHUNK = 64 };

static inline float sum_of(const float *x, long length) {
    float sum = 0;
    for (long i = 0; i < length; i++) sum += x[i];
    return sum;
}

/* Sums of chunks lead to the chunk; what they miss by rounding, the chunks behind make up for. */
static inline long inverse_of_cumulative(const float *weights, long length, double rest) {
    long i = 0;
    for (; i + CHUNK <= length; i += CHUNK) {
        float sum = sum_of(weights + i, CHUNK);
        if (!(rest >= sum)) break;
        rest -= sum;
    }
    while (i < length && rest >= weights[i]) rest -= weights[i++];
    if (i == length) i--;
    while (i > 0 && weights[i] == 0) i--;
    return i;
}

void draw(const float *logits, const float *uniforms, float *scratch, int64_t *tokens,
          float *logprobs, long threads, long rows, long vocabulary, float inverse_temperature) {
#pragma omp parallel num_threads(threads)
    {
        float *weights = scratch + omp_get_thread_num() * vocabulary;
#pragma omp for
        for (long row = 0; row < rows; row++) {
            const float *x = logits + row * vocabulary;
            float largest = largest_of(x, vocabulary);
            for (long i = 0; i < vocabulary; i++) {
                float distance = (x[i] - largest) * inverse_temperature;
                float weight = exponential(distance);
                weights[i] = distance < -87.0f ? 0.0f : weight;
            }
            double sum = 0;
            for (long i = 0; i < vocabulary; i += CHUNK)
                sum += sum_of(weights + i, vocabulary - i < CHUNK ? vocabulary - i : CHUNK);
            long token = inverse_of_cumulative(weights, vocabulary, uniforms[row] * sum);
            tokens[row] = token;
            logprobs[row] = (x[token] - largest) * inverse_temperature - logf(sum);
        }
    }
}
