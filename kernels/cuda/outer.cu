// Sums of outer products over ragged segments: out[segment, module] = sum of a_t b_t^T over the segment's tokens, and its squared norm.
//
// A block of four warps has one segment of one module, and goes over its result tile by tile, which is one tile for vectors of up to
// TILE values. Tokens arrive in stages of shared memory, several under way at a time, and stay half precision there; nothing
// else is read, so a token and module take 2 (p + q) bytes of bf16. Blocks beside each other have modules beside each other, whose
// vectors often share lines of memory.
//
// In tiles of up to 32 x 32 each warp takes a quarter of the tokens of every stage, and the four sums are added up at the end; in tiles of
// 64 x 64 each warp has a quarter of the tile. Half precision goes through tensor cores, which want a transposed on the left: a and b lie
// in shared memory with tokens as rows, and are transposed on the way to registers. Every FOLD stages a warp adds its sums to
// totals, so that the error grows with the number of folds and not with the number of tokens. All of this follows from the place of a
// token in its segment.
#include "mma.cuh"

constexpr int THREADS = 128, WARPS = THREADS / WARP, FOLD = 16;

// Part of a tile in the registers of a warp, SIZE x SIZE. On CUDA cores, lanes are 8 rows of 4, each with a rectangle.
template <class T, int SIZE> struct Sums {
  static constexpr int STEP = 16;
  FragmentC tiles[SIZE / 16][SIZE / 8];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < SIZE / 16; ++i)
#pragma unroll
      for (int j = 0; j < SIZE / 8; ++j) tiles[i][j] = {{0.f, 0.f, 0.f, 0.f}};
  }
  __device__ __forceinline__ void add(const Sums &other) {
#pragma unroll
    for (int i = 0; i < SIZE / 16; ++i)
#pragma unroll
      for (int j = 0; j < SIZE / 8; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) tiles[i][j].values[k] += other.tiles[i][j].values[k];
  }
  // Adds the products of STEP tokens: rows of `stride` values, of which this part's begin at a and b.
  __device__ __forceinline__ void multiply(SharedPtr<T> a, SharedPtr<T> b, int stride) {
    FragmentA<T> left[SIZE / 16];
#pragma unroll
    for (int i = 0; i < SIZE / 16; ++i) left[i] = load_left_transposed<T>(a + 16 * i, Rows{stride});
#pragma unroll
    for (int j = 0; j < SIZE / 16; ++j) {
      FragmentB<T> right[2];
      load_right_transposed<T>(right, b + 16 * j, Rows{stride});
#pragma unroll
      for (int i = 0; i < SIZE / 16; ++i) {
        mma<T>(tiles[i][2 * j], left[i], right[0]);
        mma<T>(tiles[i][2 * j + 1], left[i], right[1]);
      }
    }
  }
  // Calls `use(row, column, value)` for each element that this lane has.
  template <class Use> __device__ __forceinline__ void each(Use use) const {
    const int lane = threadIdx.x % WARP, row = lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < SIZE / 16; ++i)
#pragma unroll
      for (int j = 0; j < SIZE / 8; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) use(16 * i + row + k / 2 * 8, 8 * j + column + k % 2, tiles[i][j].values[k]);
  }
};

template <int SIZE> struct Sums<float, SIZE> {
  static constexpr int STEP = 1, ROWS = SIZE / 8, COLUMNS = SIZE / 4;
  float values[ROWS][COLUMNS];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) values[i][j] = 0.f;
  }
  __device__ __forceinline__ void add(const Sums &other) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) values[i][j] += other.values[i][j];
  }
  __device__ __forceinline__ void multiply(SharedPtr<float> a, SharedPtr<float> b, int) {
    const int lane = threadIdx.x % WARP, row = lane / 4 * ROWS, column = lane % 4 * COLUMNS;
    float left[ROWS], right[COLUMNS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) left[i] = a[row + i];
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) right[j] = b[column + j];
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) values[i][j] = __fmaf_rn(left[i], right[j], values[i][j]);
  }
  template <class Use> __device__ __forceinline__ void each(Use use) const {
    const int lane = threadIdx.x % WARP, row = lane / 4 * ROWS, column = lane % 4 * COLUMNS;
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) use(row + i, column + j, values[i][j]);
  }
};

// Brings up to ROWS vectors into shared memory: TILE values of each, from `first` on, as many as there are of `width`; the rest is zero.
template <class T, int TILE, int ROWS, int STRIDE>
__device__ __forceinline__ void stage(SharedPtr<T> to, const T *from, i64 stride, int first, int width, i64 rows, bool aligned) {
  constexpr int COUNT = Pack<T>::COUNT, PACKS = TILE / COUNT;
  static_assert(ROWS * PACKS % THREADS == 0, "every thread has as many packs");
#pragma unroll
  for (int k = 0; k < ROWS * PACKS / THREADS; ++k) {
    const int index = k * THREADS + threadIdx.x, row = index / PACKS, column = index % PACKS * COUNT;
    const int left = width - first - column;
    const int valid = row >= rows || left <= 0 ? 0 : left < COUNT ? left : COUNT;
    const T *const source = from + row * stride + first + column;
    if (aligned) {
      copy_async<T>(to + (row * STRIDE + column), valid ? source : from, valid);
    } else {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) to[row * STRIDE + column + i] = i < valid ? source[i] : from_f32<T>(0.f);
    }
  }
}

template <class T, int TILE>
__device__ __forceinline__ void outer(const T *a, const T *b, const i64 *offsets, float *out, float *norms, i64 tokens, int modules, int p, int q,
                                      i64 a_row, i64 a_module, i64 b_row, i64 b_module, i64 out_row, i64 out_module, int accumulate) {
  // Whether warps share out tokens or the tile, and the tile's part of a warp.
  constexpr bool SPLIT = TILE <= 32;
  constexpr int SIZE = TILE == 64 ? 32 : TILE, STAGES = TILE == 16 ? 4 : 3;
  // A stage has as many bytes in single as in half precision.
  constexpr int DEPTH = (SPLIT ? 64 : 32) * 2 / sizeof(T), WARP_DEPTH = SPLIT ? DEPTH / WARPS : DEPTH;
  // 16 bytes more than a power of two: then eight rows that are read at once lie in different banks.
  constexpr int STRIDE = TILE + Pack<T>::COUNT;
  SHARED(T, left, STAGES * DEPTH * STRIDE);
  SHARED(T, right, STAGES * DEPTH * STRIDE);
  SHARED(float, parts, SPLIT ? WARPS * TILE * TILE : 1);
  SHARED(float, scratch, WARPS);

  const i64 segment = blockIdx.x / modules;
  const int module = blockIdx.x % modules, warp = threadIdx.x / WARP;
  i64 start = offsets[segment], end = offsets[segment + 1];
  start = start < 0 ? 0 : start > tokens ? tokens : start;
  end = end < start ? start : end > tokens ? tokens : end;
  const i64 count = end - start, steps = (count + DEPTH - 1) / DEPTH;
  const T *const own_a = a + start * a_row + module * a_module, *const own_b = b + start * b_row + module * b_module;
  float *const result = out + segment * out_row + module * out_module;
  constexpr int PACK = Pack<T>::COUNT;
  // Of the whole buffers and strides: where a segment begins must not matter.
  const bool a_aligned = is_aligned(a) && a_row % PACK == 0 && a_module % PACK == 0;
  const bool b_aligned = is_aligned(b) && b_row % PACK == 0 && b_module % PACK == 0;
  const int warp_row = SPLIT ? 0 : warp / 2 * SIZE, warp_column = SPLIT ? 0 : warp % 2 * SIZE;
  const int warp_token = SPLIT ? warp * WARP_DEPTH : 0;

  float squares = 0.f;
  for (int row = 0; row < p; row += TILE) {
    for (int column = 0; column < q; column += TILE) {
      // Starts to bring the tokens of a step to a stage of shared memory.
      const auto bring = [&](i64 step, int stage_number) {
        const i64 first = step * DEPTH;
        const int at = stage_number * DEPTH * STRIDE;
        if (step < steps) {
          stage<T, TILE, DEPTH, STRIDE>(left + at, own_a + first * a_row, a_row, row, p, count - first, a_aligned);
          stage<T, TILE, DEPTH, STRIDE>(right + at, own_b + first * b_row, b_row, column, q, count - first, b_aligned);
        }
        copies_commit();
      };
      for (int step = 0; step < STAGES - 1; ++step) bring(step, step);
      Sums<T, SIZE> sums, total;
      total.clear();
      sums.clear();
      int reading = 0, filling = STAGES - 1;
      for (i64 step = 0; step < steps; ++step) {
        copies_wait<STAGES - 2>();
        // Copies of all threads have arrived, and all have read the stage that is filled next.
        __syncthreads();
        bring(step + STAGES - 1, filling);
        filling = filling + 1 == STAGES ? 0 : filling + 1;
        const int at = (reading * DEPTH + warp_token) * STRIDE;
        reading = reading + 1 == STAGES ? 0 : reading + 1;
#pragma unroll(TILE == 16 ? 4 : 2)
        for (int token = 0; token < WARP_DEPTH; token += Sums<T, SIZE>::STEP)
          sums.multiply(left + (at + token * STRIDE + warp_row), right + (at + token * STRIDE + warp_column), STRIDE);
        if (step % FOLD == FOLD - 1) {
          total.add(sums);
          sums.clear();
        }
      }
      total.add(sums);
      copies_wait<0>();

      const auto finish = [&](int i, int j, float value) {
        if (row + i >= p || column + j >= q) return;
        float *const at = result + static_cast<i64>(row + i) * q + column + j;
        if (accumulate) value = *at + value;
        *at = value;
        squares += value * value;
      };
      if constexpr (SPLIT) {
        total.each([&](int i, int j, float value) { parts[(warp * TILE + i) * TILE + j] = value; });
        __syncthreads();
#pragma unroll
        for (int index = threadIdx.x; index < TILE * TILE; index += THREADS) {
          float sum = parts[index];
#pragma unroll
          for (int other = 1; other < WARPS; ++other) sum += parts[other * TILE * TILE + index];
          finish(index / TILE, index % TILE, sum);
        }
      } else {
        total.each([&](int i, int j, float value) { finish(warp_row + i, warp_column + j, value); });
      }
      // The next tile's stages and sums go where this one's are read.
      __syncthreads();
    }
  }
  if (!norms) return;
  squares = row_reduce<Sum>(squares, scratch);
  if (threadIdx.x == 0) norms[blockIdx.x] = squares;
}

#define OUTER(tile, suffix, T)                                                                                                                \
  KERNEL(128, outer_##tile##_##suffix, const T *a, const T *b, const i64 *offsets, float *out, float *norms, i64 tokens, int modules, int p, \
         int q, i64 a_row, i64 a_module, i64 b_row, i64 b_module, i64 out_row, i64 out_module, int accumulate) {                              \
    outer<T, tile>(a, b, offsets, out, norms, tokens, modules, p, q, a_row, a_module, b_row, b_module, out_row, out_module, accumulate);      \
  }
#define ALL(suffix, T)  \
  OUTER(16, suffix, T)  \
  OUTER(32, suffix, T)  \
  OUTER(64, suffix, T)

ALL(f32, float)
ALL(bf16, bf16)
ALL(f16, f16)
