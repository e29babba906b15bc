// Linear layers: y = f(x * W^T + bias) (+ y), with x [rows, inputs] and W [outputs, inputs], rows of either being any distance apart. The kernels called
// transposed compute y = x * W (+ y) with W [inputs, outputs]: the way back through a layer, whose inputs are then gradients of what the layer gave.
//
// Products of bf16 and f16 go through tensor cores with sums in f32; those of f32 are fused multiplications and additions of f32, never
// tf32. The sum of an element goes over the inputs from the first to the last, sixteen at a time in one instruction of the tensor cores, or
// one at a time in f32, and always within one thread: there is no division of the inputs between threads or blocks. So an element has the same
// bits whatever tile computes it, and whatever rows are beside it.
//
// Tiles: wide and square ones for many rows, medium ones where those would leave multiprocessors idle, and small ones for a few rows, where all that takes
// time is reading the weights. Shared memory is filled some steps ahead. Blocks are numbered so that those that run at the same time share rows
// and columns: sixteen tiles of rows with all columns, then the next sixteen.
#include "activation.cuh"
#include "mma.cuh"

// The numbers of src/gemm/launch.rs, beside those of activation.cuh.
constexpr int IDENTITY = -1, TANH = 3, RELU = 4;

// What is done with a sum before it is written.
struct Ending {
  const float *bias;
  void *y;
  i64 stride;
  int function, accumulate, single;
};

// Sums that no compiler may fuse with a product: kernels of different tiles must round alike.
template <bool TRANSPOSED> __device__ __forceinline__ float finish(const Ending &ending, float sum, int column) {
  if constexpr (TRANSPOSED) return sum;
  if (ending.bias) sum = __fadd_rn(sum, ending.bias[column]);
  if (ending.function == IDENTITY) return sum;
  if (ending.function == TANH) return tanhf(sum);
  // A value that is not a number stays one.
  if (ending.function == RELU) return sum < 0.f ? 0.f : sum;
  return activate(ending.function, sum).value;
}

template <class Y> __device__ __forceinline__ void write(const Ending &ending, i64 row, int column, float value) {
  Y *const at = static_cast<Y *>(ending.y) + row * ending.stride + column;
  *at = from_f32<Y>(ending.accumulate ? __fadd_rn(value, to_f32(*at)) : value);
}

// Two neighbouring columns, of which the first is even.
template <class T, bool TRANSPOSED> __device__ __forceinline__ void write_pair(const Ending &ending, i64 row, int column, int columns, float first, float second) {
  const float values[2] = {finish<TRANSPOSED>(ending, first, column), column + 1 < columns ? finish<TRANSPOSED>(ending, second, column + 1) : 0.f};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (column + i >= columns) continue;
    if (ending.single) write<float>(ending, row, column + i, values[i]);
    else write<T>(ending, row, column + i, values[i]);
  }
}

// The first row and the first column of a block's tile.
struct Place {
  i64 row;
  int column;
};

__device__ __forceinline__ Place place(i64 rows, int columns, int tile_rows, int tile_columns) {
  constexpr int TOGETHER = 16;
  const i64 down = (rows + tile_rows - 1) / tile_rows, number = blockIdx.x;
  const int across = (columns + tile_columns - 1) / tile_columns;
  const i64 group = number / (static_cast<i64>(TOGETHER) * across), within = number % (static_cast<i64>(TOGETHER) * across);
  const i64 first = group * TOGETHER, height = down - first < TOGETHER ? down - first : TOGETHER;
  return {(first + within % height) * tile_rows, static_cast<int>(within / height) * tile_columns};
}

// Lines of one operand, `stride` apart, of which there are `count`.
template <class T> struct Operand {
  const T *values;
  i64 stride, first, count;
};

// Copies LINES lines with DEPTH inputs from `start` on to shared memory, zeros where there are none.
template <class T, int LINES, int DEPTH, int THREADS>
__device__ __forceinline__ void load_lines(SharedPtr<T> to, const Operand<T> &from, int start, int depth, bool aligned) {
  constexpr int PACKS = DEPTH / 8;
#pragma unroll
  for (int i = threadIdx.x; i < LINES * PACKS; i += THREADS) {
    const int line = i / PACKS, within = i % PACKS * 8;
    const int left = from.first + line < from.count ? depth - start - within : 0;
    const int valid = left < 0 ? 0 : left < 8 ? left : 8;
    const T *const values = valid > 0 ? from.values + (from.first + line) * from.stride + start + within : from.values;
    const SharedPtr<T> at = to + (line * (DEPTH + 8) + within);
    if (aligned) {
      copy_async<T>(at, values, valid);
    } else {
      for (int j = 0; j < 8; ++j) at[j] = j < valid ? values[j] : from_f32<T>(0.f);
    }
  }
}

// A tile of ROWS x COLUMNS on tensor cores, of DOWN x ACROSS warps. Weights lie in shared memory as in their own: COLUMNS lines of DEPTH inputs, or, where
// they are TRANSPOSED, DEPTH lines of COLUMNS outputs.
template <class T, bool TRANSPOSED, int ROWS, int COLUMNS, int DOWN, int ACROSS, int DEPTH, int STAGES>
__device__ __forceinline__ void tensor(const T *x, const T *weights, const Ending &ending, i64 x_stride, i64 weight_stride, i64 rows, int inputs, int outputs) {
  constexpr int THREADS = WARP * DOWN * ACROSS, WARP_ROWS = ROWS / DOWN, WARP_COLUMNS = COLUMNS / ACROSS;
  constexpr int STRIDE = DEPTH + 8, WEIGHT_STRIDE = TRANSPOSED ? COLUMNS + 8 : STRIDE, WEIGHT_LINES = TRANSPOSED ? DEPTH : COLUMNS;
  constexpr int STAGE = ROWS * STRIDE + WEIGHT_LINES * WEIGHT_STRIDE, LEFT = WARP_ROWS / 16, RIGHT = WARP_COLUMNS / 16;
  DYNAMIC_SHARED(T, memory);
  const Place first = place(rows, outputs, ROWS, COLUMNS);
  const Operand<T> left{x, x_stride, first.row, rows};
  const bool left_aligned = is_aligned(x) && x_stride % 8 == 0, right_aligned = is_aligned(weights) && weight_stride % 8 == 0;
  const int lane = threadIdx.x % WARP, warp_row = threadIdx.x / WARP % DOWN * WARP_ROWS, warp_column = threadIdx.x / WARP / DOWN * WARP_COLUMNS;
  // Warps with nothing but padding have no product to compute, but copy like all others.
  const bool busy = first.row + warp_row < rows && first.column + warp_column < outputs;
  FragmentC sums[LEFT][2 * RIGHT];
#pragma unroll
  for (int i = 0; i < LEFT; ++i)
#pragma unroll
    for (int j = 0; j < 2 * RIGHT; ++j) sums[i][j] = {{0.f, 0.f, 0.f, 0.f}};
  const int steps = (inputs + DEPTH - 1) / DEPTH;
  const auto begin = [&](int step) {
    if (step < steps) {
      const SharedPtr<T> to = memory + step % STAGES * STAGE;
      load_lines<T, ROWS, DEPTH, THREADS>(to, left, step * DEPTH, inputs, left_aligned);
      if constexpr (TRANSPOSED) {
        const Operand<T> lines{weights, weight_stride, static_cast<i64>(step) * DEPTH, inputs};
        load_lines<T, DEPTH, COLUMNS, THREADS>(to + ROWS * STRIDE, lines, first.column, outputs, right_aligned);
      } else {
        const Operand<T> lines{weights, weight_stride, first.column, outputs};
        load_lines<T, COLUMNS, DEPTH, THREADS>(to + ROWS * STRIDE, lines, step * DEPTH, inputs, right_aligned);
      }
    }
    copies_commit();
  };
#pragma unroll
  for (int step = 0; step < STAGES - 1; ++step) begin(step);
  for (int step = 0; step < steps; ++step) {
    copies_wait<STAGES - 2>();
    // Everybody's copies of this step are there, and nobody reads those of the step before any more.
    __syncthreads();
    begin(step + STAGES - 1);
    if (!busy) continue;
    const SharedPtr<T> a_tile = memory + step % STAGES * STAGE, b_tile = a_tile + ROWS * STRIDE;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
      FragmentA<T> a[LEFT];
#pragma unroll
      for (int i = 0; i < LEFT; ++i) a[i] = load_left<T>(a_tile + ((warp_row + 16 * i) * STRIDE + k), Rows{STRIDE});
#pragma unroll
      for (int j = 0; j < RIGHT; ++j) {
        FragmentB<T> b[2];
        if constexpr (TRANSPOSED) load_right_transposed<T>(b, b_tile + (k * WEIGHT_STRIDE + warp_column + 16 * j), Rows{WEIGHT_STRIDE});
        else load_right<T>(b, b_tile + ((warp_column + 16 * j) * STRIDE + k), Rows{STRIDE});
#pragma unroll
        for (int i = 0; i < LEFT; ++i) {
          mma(sums[i][2 * j], a[i], b[0]);
          mma(sums[i][2 * j + 1], a[i], b[1]);
        }
      }
    }
  }
  if (!busy) return;
#pragma unroll
  for (int i = 0; i < LEFT; ++i)
#pragma unroll
    for (int j = 0; j < 2 * RIGHT; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const i64 row = first.row + warp_row + 16 * i + 8 * half + lane / 4;
        const int column = first.column + warp_column + 8 * j + lane % 4 * 2;
        if (row < rows && column < outputs)
          write_pair<T, TRANSPOSED>(ending, row, column, outputs, sums[i][j].values[2 * half], sums[i][j].values[2 * half + 1]);
      }
}

// An element of a tile of weights: which of the tile's outputs and inputs it is of.
struct WeightPlace {
  int output, input;
};

// A tile in single precision of 16 x 16 threads, with EACH x EACH elements each.
template <bool TRANSPOSED, int EACH, int DEPTH>
__device__ __forceinline__ void plain(const float *x, const float *weights, const Ending &ending, i64 x_stride, i64 weight_stride, i64 rows, int inputs,
                                      int outputs) {
  constexpr int SIZE = 16 * EACH, STRIDE = DEPTH + 1, OPERAND = SIZE * STRIDE, COPIES = SIZE * DEPTH / 256;
  SHARED(float, memory, 4 * OPERAND);
  const Place first = place(rows, outputs, SIZE, SIZE);
  const int down = threadIdx.x / 16, across = threadIdx.x % 16;
  float sums[EACH][EACH], next[2][COPIES];
#pragma unroll
  for (int i = 0; i < EACH; ++i)
#pragma unroll
    for (int j = 0; j < EACH; ++j) sums[i][j] = 0.f;
  // Which weight a thread copies: neighbours copy what lies side by side.
  const auto weight_place = [](int i) {
    const int number = i * 256 + threadIdx.x;
    return TRANSPOSED ? WeightPlace{number % SIZE, number / SIZE} : WeightPlace{number / DEPTH, number % DEPTH};
  };
  const auto fetch = [&](int start) {
#pragma unroll
    for (int i = 0; i < COPIES; ++i) {
      const int line = (i * 256 + threadIdx.x) / DEPTH, k = start + threadIdx.x % DEPTH;
      next[0][i] = k < inputs && first.row + line < rows ? x[(first.row + line) * x_stride + k] : 0.f;
      const WeightPlace at = weight_place(i);
      const i64 output = first.column + at.output, input = start + at.input;
      const bool exists = input < inputs && output < outputs;
      next[1][i] = exists ? weights[TRANSPOSED ? input * weight_stride + output : output * weight_stride + input] : 0.f;
    }
  };
  fetch(0);
  for (int start = 0, buffer = 0; start < inputs; start += DEPTH, buffer ^= 1) {
    const int a_tile = 2 * buffer * OPERAND, b_tile = a_tile + OPERAND;
#pragma unroll
    for (int i = 0; i < COPIES; ++i) {
      const int to = (i * 256 + threadIdx.x) / DEPTH * STRIDE + threadIdx.x % DEPTH;
      memory[a_tile + to] = next[0][i];
      memory[b_tile + weight_place(i).output * STRIDE + weight_place(i).input] = next[1][i];
    }
    // The tile is there; the other one is written again only behind the next barrier, when nobody reads it any more.
    __syncthreads();
    if (start + DEPTH < inputs) fetch(start + DEPTH);
    const int depth = inputs - start < DEPTH ? inputs - start : DEPTH;
#pragma unroll 4
    for (int k = 0; k < depth; ++k) {
      float a[EACH], b[EACH];
#pragma unroll
      for (int i = 0; i < EACH; ++i) a[i] = memory[a_tile + (down + 16 * i) * STRIDE + k];
#pragma unroll
      for (int j = 0; j < EACH; ++j) b[j] = memory[b_tile + (across + 16 * j) * STRIDE + k];
#pragma unroll
      for (int i = 0; i < EACH; ++i)
#pragma unroll
        for (int j = 0; j < EACH; ++j) sums[i][j] = __fmaf_rn(a[i], b[j], sums[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < EACH; ++i)
#pragma unroll
    for (int j = 0; j < EACH; ++j) {
      const i64 row = first.row + down + 16 * i;
      const int column = first.column + across + 16 * j;
      if (row < rows && column < outputs) write<float>(ending, row, column, finish<TRANSPOSED>(ending, sums[i][j], column));
    }
}

#define LINEAR(threads, name, T, ...)                                                                                                   \
  KERNEL(threads, name, const T *x, const T *weights, const float *bias, void *y, i64 x_stride, i64 weight_stride, i64 y_stride, i64 rows, \
         int inputs, int outputs, int function, int accumulate, int single) {                                                            \
    const Ending ending{bias, y, y_stride, function, accumulate, single};                                                                \
    __VA_ARGS__(x, weights, ending, x_stride, weight_stride, rows, inputs, outputs);                                                     \
  }

#define TENSOR(prefix, suffix, T, transposed)                                        \
  LINEAR(256, prefix##_wide_##suffix, T, tensor<T, transposed, 128, 256, 2, 4, 32, 3>)   \
  LINEAR(256, prefix##_square_##suffix, T, tensor<T, transposed, 128, 128, 2, 4, 32, 4>) \
  LINEAR(128, prefix##_medium_##suffix, T, tensor<T, transposed, 64, 64, 2, 2, 64, 3>)   \
  LINEAR(64, prefix##_small_##suffix, T, tensor<T, transposed, 16, 32, 1, 2, 128, 4>)

#define PLAIN(prefix, transposed)                                         \
  LINEAR(256, prefix##_square_f32, float, plain<transposed, 8, 8>) \
  LINEAR(256, prefix##_small_f32, float, plain<transposed, 2, 16>)

TENSOR(gemm, bf16, bf16, false)
TENSOR(gemm, f16, f16, false)
PLAIN(gemm, false)
TENSOR(gemm_transposed, bf16, bf16, true)
TENSOR(gemm_transposed, f16, f16, true)
PLAIN(gemm_transposed, true)
