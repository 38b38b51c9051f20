/* Products of float32 matrices where the processor multiplies tiles of bfloat16 (Intel's AMX), at 16
 * times the pace of float32 in vectors. A number is the sum of three bfloat16: the one next to it, the
 * one next to what remains, and the rest. Of the nine products of two such sums six are taken; the
 * others together are below 2^-23 of the whole. Tiles add up in float32. Infinities become NaN.
 *
 * kernels.py sets TERMS, those of such a sum, STEPS, the steps of a product's sum between two visits of
 * the result, and KEPT, the numbers of the second matrix that are split at a time, so few that the
 * second cache holds them. */

#include "kernels.h"

#if defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ASK_FOR_STATE = 0x1023, TILE_DATA = 18 }; /* of Linux */

/* Whether `multiply_tiles` may be called; the system lets no one use tiles without asking. */
int has_tiles(void) { return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0; }

/* A tile has SIDE rows of SIDE pairs. Of the first matrix a row of it holds steps of the sum in one of
 * the matrix's rows, of the second the numbers of all its SIDE columns. The two of a pair are SIDE steps
 * apart. A square, of SQUARE lines by SQUARE steps, is the TERMS of two tiles. */
enum { SIDE = SQUARE / 2 };
enum { TILE_SIZE = SIDE * SQUARE, SQUARE_SIZE = 2 * TERMS * TILE_SIZE };

_Static_assert(SQUARE == 32 && TERMS == 3, "what tiles hold, and what multiply_squares writes out");
_Static_assert(STEPS % SQUARE == 0 && KEPT >= SQUARE * STEPS, "at least one row of whole squares");

typedef uint16_t bfloat;

/* A matrix: how far apart its lines are (of the first its rows, of the second its columns), and the
 * steps of the sum in each of them. One of the two is 1. */
typedef struct {
    const float *start;
    long line, step;
} matrix;

static inline matrix from(matrix x, long line, long step) {
    x.start += line * x.line + step * x.step;
    return x;
}

static inline long pieces(long size, long most) { return (size + most - 1) / most; }

static inline __mmask16 first(long count) {
    return count <= 0 ? 0 : count >= SIDE ? 0xffff : (1 << count) - 1;
}

/* Rows become columns. */
static inline void turn(__m512i x[SIDE]) {
    __m512i y[SIDE];
    for (int i = 0; i < SIDE; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + j + 2]);
            x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + j + 2]);
        }
    for (int i = 0; i < SIDE; i += 8)
        for (int j = i; j < i + 4; j++) {
            y[j] = _mm512_shuffle_i32x4(x[j], x[j + 4], 0x88);
            y[j + 4] = _mm512_shuffle_i32x4(x[j], x[j + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
    }
}

/* SIDE lines by SIDE steps, zeros behind the last of either; each vector one line, or one step. */
static inline void load_square(matrix x, long lines, long steps, int by_line, __m512i out[SIDE]) {
    int lies_by_line = x.step == 1;
    long vectors = lies_by_line ? lines : steps, apart = lies_by_line ? x.line : x.step;
    __mmask16 there = first(lies_by_line ? steps : lines);
    for (long i = 0; i < SIDE; i++)
        out[i] = _mm512_maskz_loadu_epi32(i < vectors ? there : 0, x.start + i * apart);
    if (lies_by_line != by_line) turn(out);
}

/* What a bfloat16 can hold. */
static inline __m512i upper(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi32(~0xffff)); }

static inline __m512i minus(__m512i x, __m512i y) {
    return (__m512i)_mm512_sub_ps((__m512)x, (__m512)y);
}

/* SIDE lines by SQUARE steps → TERMS tiles; asks for the place of what follows, which another core may
 * hold. */
static inline void split(matrix x, long lines, long steps, int by_line, bfloat *out) {
    __m512i low[SIDE], high[SIDE], middle = _mm512_set1_epi32(0x8000);
    for (bfloat *line = out + TERMS * TILE_SIZE; line < out + 2 * TERMS * TILE_SIZE; line += SQUARE)
        __builtin_prefetch(line, 1, 2);
    load_square(x, lines, steps, by_line, low);
    load_square(from(x, 0, SIDE), lines, steps - SIDE, by_line, high);
    for (int i = 0; i < SIDE; i++)
        for (int part = 0; part < TERMS; part++) {
            int last = part == TERMS - 1;
            __m512i a = upper(last ? low[i] : _mm512_add_epi32(low[i], middle));
            __m512i b = upper(last ? high[i] : _mm512_add_epi32(high[i], middle));
            __m512i pairs = _mm512_or_si512(_mm512_srli_epi32(a, 16), b);
            _mm512_storeu_si512(out + part * TILE_SIZE + i * SQUARE, pairs);
            low[i] = minus(low[i], a);
            high[i] = minus(high[i], b);
        }
}

/* SQUARE lines → a row of squares. */
static void split_lines(matrix x, long lines, long steps, int by_line, bfloat *out) {
    for (long k = 0; k < steps; k += SQUARE)
        for (long i = 0; i < SQUARE; i += SIDE, out += TERMS * TILE_SIZE)
            split(from(x, i, k), lines - i, steps - k, by_line, out);
}

/* A share of the numbers of a square, asked for ahead of their use. */
static inline void fetch(matrix x, long begin, long end) {
    long apart = x.step == 1 ? x.line : x.step;
    for (long i = begin; i < end; i++) {
        __builtin_prefetch(x.start + i * apart, 0, 2);
        __builtin_prefetch(x.start + i * apart + SIDE, 0, 2);
    }
}

/* Tiles 0 to 3 are the sums, 4 and 5 a part of the first matrix, 6 and 7 one of the second. */
static inline void load_first(const bfloat *x, long part) {
    _tile_loadd(4, x + part * TILE_SIZE, 64);
    _tile_loadd(5, x + (TERMS + part) * TILE_SIZE, 64);
}

static inline void load_second(const bfloat *y, long part) {
    _tile_loadd(6, y + part * TILE_SIZE, 64);
    _tile_loadd(7, y + (TERMS + part) * TILE_SIZE, 64);
}

static inline void add_products(void) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

static inline void clear_sums(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

static inline void load_sums(const float *out, long row) {
    long bytes = row * sizeof(float);
    _tile_loadd(0, out, bytes);
    _tile_loadd(1, out + SIDE, bytes);
    _tile_loadd(2, out + SIDE * row, bytes);
    _tile_loadd(3, out + SIDE * row + SIDE, bytes);
}

static inline void store_sums(float *out, long row) {
    long bytes = row * sizeof(float);
    _tile_stored(0, out, bytes);
    _tile_stored(1, out + SIDE, bytes);
    _tile_stored(2, out + SIDE * row, bytes);
    _tile_stored(3, out + SIDE * row + SIDE, bytes);
}

/* GCC does not know that instructions for tiles read memory and write it. */
static inline void finish_writing(void) { __asm__ volatile("" ::: "memory"); }

/* A square of the result from two rows of squares, the products of small parts first; meanwhile a
 * share of each of the squares that come next. */
static void multiply_squares(const bfloat *x, const bfloat *y, long squares, float *out, long row,
                             int add, matrix next, long begin, long end) {
    finish_writing();
    if (add)
        load_sums(out, row);
    else
        clear_sums();
    for (long k = 0; k < squares; k++, x += SQUARE_SIZE, y += SQUARE_SIZE) {
        load_first(x, 2), load_second(y, 0), add_products();
        fetch(from(next, 0, k * SQUARE), begin, end);
        load_first(x, 1), add_products();
        load_second(y, 1), add_products();
        load_first(x, 0), add_products();
        load_second(y, 2), add_products();
        load_second(y, 0), add_products();
    }
    store_sums(out, row);
    finish_writing();
}

/* Eight tiles of the full size; a setting of the thread that calls. */
static inline void configure(void) {
    static const struct {
        uint8_t palette, rest[15];
        uint16_t bytes[16];
        uint8_t rows[16];
    } all = {.palette = 1,
             .bytes = {64, 64, 64, 64, 64, 64, 64, 64},
             .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE}};
    _tile_loadconfig(&all);
}

/* A part of the result: its rows and columns, the numbers from row to row, the squares of a sum. */
typedef struct {
    long high, wide, row, squares;
} area;

/* Of SQUARE rows, or fewer, the columns of squares `begin` to `end`; x is split, and so are all of y. */
static void multiply_row(const bfloat *x, const bfloat *y, float *out, area size, long begin, long end,
                         int add, matrix next) {
    long row = size.row, columns = pieces(size.wide, SQUARE);
    for (long j = begin; j < end; j++) {
        const bfloat *other = y + j * size.squares * SQUARE_SIZE;
        long wide = size.wide - j * SQUARE, fetched = j * SQUARE / columns;
        long fetches = (j + 1) * SQUARE / columns;
        float *place = out + j * SQUARE, spare[SQUARE * SQUARE];
        if (size.high >= SQUARE && wide >= SQUARE) {
            multiply_squares(x, other, size.squares, place, row, add, next, fetched, fetches);
            continue;
        }
        multiply_squares(x, other, size.squares, spare, SQUARE, 0, next, fetched, fetches);
        for (long r = 0; r < SQUARE && r < size.high; r++)
            for (long c = 0; c < SQUARE && c < wide; c++)
                place[r * row + c] = spare[r * SQUARE + c] + (add ? place[r * row + c] : 0);
    }
}

/* The steps of y's lines that are kept are split once, by all threads; those of x by the thread that
 * needs them. A row of squares is cut into shares only where a thread has fewer than four rows. */
static void multiply_kept(matrix x, matrix y, float *out, bfloat *scratch, long steps, long rows,
                          area size, long shares, int add) {
    bfloat *own = scratch + TERMS * (KEPT + (long)omp_get_thread_num() * SQUARE * STEPS);
    long columns = pieces(size.wide, SQUARE), blocks = pieces(rows, SQUARE), held = -1;
#pragma omp for schedule(static)
    for (long j = 0; j < columns; j++)
        split_lines(from(y, j * SQUARE, 0), size.wide - j * SQUARE, steps, 0,
                    scratch + j * size.squares * SQUARE_SIZE);
#pragma omp for schedule(static) collapse(2)
    for (long block = 0; block < blocks; block++)
        for (long share = 0; share < shares; share++) {
            matrix lines = from(x, block * SQUARE, 0);
            size.high = rows - block * SQUARE;
            if (held != block) split_lines(lines, size.high, steps, 1, own);
            held = block;
            multiply_row(own, scratch, out + block * SQUARE * size.row, size, share * columns / shares,
                         (share + 1) * columns / shares, add, from(lines, SQUARE, 0));
        }
}

/* out[m, n] = Σ_k x(m, k) · y(n, k). The scratch holds TERMS numbers for each of KEPT, and for each of
 * SQUARE · STEPS of a thread. */
void multiply_tiles(const float *x_start, const float *y_start, float *out, bfloat *scratch,
                    long threads, long m, long n, long k, long x_line, long x_step, long y_line,
                    long y_step) {
    long depth = pieces(pieces(k, pieces(k, STEPS)), SQUARE) * SQUARE;
    long most = KEPT / depth / SQUARE * SQUARE;
    long width = pieces(pieces(n, pieces(n, most)), SQUARE) * SQUARE;
    long shares = pieces(4 * threads, pieces(m, SQUARE));
    matrix x = {x_start, x_line, x_step}, y = {y_start, y_line, y_step};
#pragma omp parallel num_threads(threads)
    {
        configure();
        for (long left = 0; left < n; left += width)
            for (long begin = 0; begin < k; begin += depth) {
                long wide = n - left < width ? n - left : width;
                long steps = k - begin < depth ? k - begin : depth;
                area size = {m, wide, n, pieces(steps, SQUARE)};
                multiply_kept(from(x, 0, begin), from(y, left, begin), out + left, scratch, steps, m,
                              size, shares, begin > 0);
            }
        _tile_release();
    }
}

#else

int has_tiles(void) { return 0; }

void multiply_tiles(void) {} /* kernels.py declares every function; this one is never called. */

#endif
