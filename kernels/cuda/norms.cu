// RMSNorm and LayerNorm over the last dimension, forward and backward.
//
// A row is handled by the threads of one threadIdx.y; a block holds blockDim.y rows at a time. blockDim.x follows from the width
// alone, so the order of additions within a row does too. The backward pass walks down a chunk of rows and keeps the sums for
// weight and bias in shared memory, where each thread owns its columns; one sum for each chunk goes to memory, and
// norm_combine adds the chunks up in their order. Rows too wide for that keep the sums in memory at once.
#include "common.cuh"

// Mean and reciprocal deviation of a row: (x - mean) * scale is the normalised value.
struct Statistics {
  float mean, scale;
};

template <class T, bool CENTRED> __device__ __forceinline__ Statistics statistics(const T *x, int width, bool aligned, float epsilon, SharedPtr<float> scratch) {
  constexpr int COUNT = Pack<T>::COUNT;
  const int step = blockDim.x * COUNT;
  float values[COUNT], mean = 0.f;
  if constexpr (CENTRED) {
    float sum = 0.f;
    for (int start = threadIdx.x * COUNT; start < width; start += step) {
      load_pack(x, start, width, aligned, values, 0.f);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) sum += values[i];
    }
    mean = row_reduce<Sum>(sum, scratch) / width;
  }
  float squares = 0.f;
  for (int start = threadIdx.x * COUNT; start < width; start += step) {
    load_pack(x, start, width, aligned, values, mean);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const float centred = values[i] - mean;
      squares += centred * centred;
    }
  }
  const float variance = row_reduce<Sum>(squares, scratch) / width;
  return {mean, 1.f / sqrtf(variance + epsilon)};
}

template <class T, bool CENTRED>
__device__ __forceinline__ void forward(const T *x, const T *weight, const T *bias, T *y, i64 rows, int width, float epsilon) {
  constexpr int COUNT = Pack<T>::COUNT;
  SHARED(float, scratch, 32);
  const i64 row = static_cast<i64>(blockIdx.x) * blockDim.y + threadIdx.y;
  // A row beyond the last has no values, but its threads take part in the barriers of the block.
  const int count = row < rows ? width : 0;
  const T *from = x + row * width;
  const bool aligned = is_aligned(x) && is_aligned(y) && is_aligned(weight) && is_aligned(bias) && width % COUNT == 0;
  const Statistics row_statistics = statistics<T, CENTRED>(from, count, aligned, epsilon, scratch);
  for (int start = threadIdx.x * COUNT; start < count; start += blockDim.x * COUNT) {
    float values[COUNT], factors[COUNT], offsets[COUNT];
    load_pack(from, start, count, aligned, values, 0.f);
    if (weight) load_pack(weight, start, count, aligned, factors, 1.f);
    if (bias) load_pack(bias, start, count, aligned, offsets, 0.f);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      values[i] = (values[i] - row_statistics.mean) * row_statistics.scale;
      if (weight) values[i] *= factors[i];
      if (bias) values[i] += offsets[i];
    }
    store_pack(y + row * width, start, count, aligned, values);
  }
}

// dx = scale * (g - mean(g) - n * mean(g * n)) with g = dy * weight and n the normalised value; RMSNorm has no mean(g).
// dweight = sum over rows of dy * n, dbias = sum over rows of dy: `partial` is [2, chunks, width].
template <class T, bool CENTRED, bool WIDE>
__device__ __forceinline__ void backward(const T *x, const T *weight, const T *dy, T *dx, float *partial, i64 rows, int width, int chunk_rows,
                                         float epsilon) {
  constexpr int COUNT = Pack<T>::COUNT;
  SHARED(float, scratch, 32);
  DYNAMIC_SHARED(float, sums);
  const bool aligned = is_aligned(x) && is_aligned(dy) && is_aligned(dx) && is_aligned(weight) && width % COUNT == 0;
  const int step = blockDim.x * COUNT;
  const i64 chunk = blockIdx.x, chunks = gridDim.x, first = chunk * chunk_rows;
  const i64 last = first + chunk_rows < rows ? first + chunk_rows : rows;
  const int weights = threadIdx.y * width, biases = (blockDim.y + threadIdx.y) * width;
  float *const weight_sums = partial + chunk * width, *const bias_sums = partial + (chunks + chunk) * width;
  if (partial) {
    for (int start = threadIdx.x * COUNT; start < width; start += step)
      for (int i = start; i < start + COUNT && i < width; ++i) {
        if constexpr (WIDE) {
          weight_sums[i] = 0.f;
          bias_sums[i] = 0.f;
        } else {
          sums[weights + i] = 0.f;
          sums[biases + i] = 0.f;
        }
      }
  }
  for (i64 base = first; base < last; base += blockDim.y) {
    const i64 row = base + threadIdx.y;
    const int count = row < last ? width : 0;
    const T *x_row = x + row * width, *dy_row = dy + row * width;
    const Statistics row_statistics = statistics<T, CENTRED>(x_row, count, aligned, epsilon, scratch);
    float values[COUNT], gradients[COUNT], factors[COUNT];
    float sum = 0.f, product = 0.f;
    for (int start = threadIdx.x * COUNT; start < count; start += step) {
      load_pack(x_row, start, count, aligned, values, row_statistics.mean);
      load_pack(dy_row, start, count, aligned, gradients, 0.f);
      if (weight) load_pack(weight, start, count, aligned, factors, 0.f);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) {
        const float normalised = (values[i] - row_statistics.mean) * row_statistics.scale;
        if (partial && start + i < count) {
          if constexpr (WIDE) {
            weight_sums[start + i] += gradients[i] * normalised;
            bias_sums[start + i] += gradients[i];
          } else {
            sums[weights + start + i] += gradients[i] * normalised;
            sums[biases + start + i] += gradients[i];
          }
        }
        const float gradient = weight ? gradients[i] * factors[i] : gradients[i];
        sum += gradient;
        product += gradient * normalised;
      }
    }
    const float mean_gradient = CENTRED ? row_reduce<Sum>(sum, scratch) / width : 0.f;
    const float mean_product = row_reduce<Sum>(product, scratch) / width;
    for (int start = threadIdx.x * COUNT; start < count; start += step) {
      load_pack(x_row, start, count, aligned, values, 0.f);
      load_pack(dy_row, start, count, aligned, gradients, 0.f);
      if (weight) load_pack(weight, start, count, aligned, factors, 0.f);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) {
        const float normalised = (values[i] - row_statistics.mean) * row_statistics.scale;
        const float gradient = weight ? gradients[i] * factors[i] : gradients[i];
        values[i] = row_statistics.scale * (gradient - mean_gradient - normalised * mean_product);
      }
      store_pack(dx + row * width, start, count, aligned, values);
    }
  }
  if (!partial || WIDE) return;
  __syncthreads();
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < width; i += blockDim.x * blockDim.y) {
    float weight_sum = 0.f, bias_sum = 0.f;
    for (int y = 0; y < blockDim.y; ++y) {
      weight_sum += sums[y * width + i];
      bias_sum += sums[(blockDim.y + y) * width + i];
    }
    weight_sums[i] = weight_sum;
    bias_sums[i] = bias_sum;
  }
}

// Column sums of `partial` [chunks, width], written as T. A block has 32 columns and 8 lanes of chunks.
template <class T> __device__ __forceinline__ void combine(const float *partial, T *total, i64 chunks, int width) {
  SHARED(float, lanes, 256);
  const int column = blockIdx.x * WARP + threadIdx.x;
  float sum = 0.f;
  if (column < width)
    for (i64 chunk = threadIdx.y; chunk < chunks; chunk += blockDim.y) sum += partial[chunk * width + column];
  lanes[threadIdx.y * WARP + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  sum = 0.f;
  for (int y = 0; y < blockDim.y; ++y) sum += lanes[y * WARP + threadIdx.x];
  total[column] = from_f32<T>(sum);
}

#define NORMS(suffix, T)                                                                                                         \
  KERNEL(256, rms_norm_forward_##suffix, const T *x, const T *weight, const T *bias, T *y, i64 rows, int width, float epsilon) { \
    forward<T, false>(x, weight, bias, y, rows, width, epsilon);                                                                 \
  }                                                                                                                              \
  KERNEL(256, layer_norm_forward_##suffix, const T *x, const T *weight, const T *bias, T *y, i64 rows, int width, float epsilon) { \
    forward<T, true>(x, weight, bias, y, rows, width, epsilon);                                                                  \
  }                                                                                                                              \
  KERNEL(256, rms_norm_backward_##suffix, const T *x, const T *weight, const T *dy, T *dx, float *partial, i64 rows, int width,  \
         int chunk_rows, float epsilon) {                                                                                        \
    backward<T, false, false>(x, weight, dy, dx, partial, rows, width, chunk_rows, epsilon);                                     \
  }                                                                                                                              \
  KERNEL(256, layer_norm_backward_##suffix, const T *x, const T *weight, const T *dy, T *dx, float *partial, i64 rows, int width, \
         int chunk_rows, float epsilon) {                                                                                        \
    backward<T, true, false>(x, weight, dy, dx, partial, rows, width, chunk_rows, epsilon);                                      \
  }                                                                                                                              \
  KERNEL(256, rms_norm_backward_wide_##suffix, const T *x, const T *weight, const T *dy, T *dx, float *partial, i64 rows, int width, \
         int chunk_rows, float epsilon) {                                                                                        \
    backward<T, false, true>(x, weight, dy, dx, partial, rows, width, chunk_rows, epsilon);                                      \
  }                                                                                                                              \
  KERNEL(256, layer_norm_backward_wide_##suffix, const T *x, const T *weight, const T *dy, T *dx, float *partial, i64 rows, int width, \
         int chunk_rows, float epsilon) {                                                                                        \
    backward<T, true, true>(x, weight, dy, dx, partial, rows, width, chunk_rows, epsilon);                                       \
  }                                                                                                                              \
  KERNEL(256, norm_combine_##suffix, const float *partial, T *total, i64 chunks, int width) { combine<T>(partial, total, chunks, width); }

NORMS(f32, float)
NORMS(bf16, bf16)
NORMS(f16, f16)
