// Softmax over the last dimension, forward and backward. Rows and threads as in norms.cu.
#include "common.cuh"

template <class T> __device__ __forceinline__ void forward(const T *x, T *y, i64 rows, int width, float scale) {
  constexpr int COUNT = Pack<T>::COUNT;
  SHARED(float, scratch, 32);
  const i64 row = static_cast<i64>(blockIdx.x) * blockDim.y + threadIdx.y;
  // A row beyond the last has no values, but its threads take part in the barriers of the block.
  const int count = row < rows ? width : 0, step = blockDim.x * COUNT;
  const T *from = x + row * width;
  const bool aligned = is_aligned(x) && is_aligned(y) && width % COUNT == 0;
  float values[COUNT], most = -infinity(), sum = 0.f;
  for (int start = threadIdx.x * COUNT; start < count; start += step) {
    load_pack(from, start, count, aligned, values, 0.f);
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
      if (start + i < count) most = Max::join(values[i] * scale, most);
  }
  most = row_reduce<Max>(most, scratch);
  for (int start = threadIdx.x * COUNT; start < count; start += step) {
    load_pack(from, start, count, aligned, values, 0.f);
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
      if (start + i < count) sum += expf(values[i] * scale - most);
  }
  const float factor = 1.f / row_reduce<Sum>(sum, scratch);
  for (int start = threadIdx.x * COUNT; start < count; start += step) {
    load_pack(from, start, count, aligned, values, 0.f);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) values[i] = expf(values[i] * scale - most) * factor;
    store_pack(y + row * width, start, count, aligned, values);
  }
}

// dx = scale * y * (dy - sum(dy * y)).
template <class T> __device__ __forceinline__ void backward(const T *y, const T *dy, T *dx, i64 rows, int width, float scale) {
  constexpr int COUNT = Pack<T>::COUNT;
  SHARED(float, scratch, 32);
  const i64 row = static_cast<i64>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int count = row < rows ? width : 0, step = blockDim.x * COUNT;
  const T *y_row = y + row * width, *dy_row = dy + row * width;
  const bool aligned = is_aligned(y) && is_aligned(dy) && is_aligned(dx) && width % COUNT == 0;
  float values[COUNT], gradients[COUNT], sum = 0.f;
  for (int start = threadIdx.x * COUNT; start < count; start += step) {
    load_pack(y_row, start, count, aligned, values, 0.f);
    load_pack(dy_row, start, count, aligned, gradients, 0.f);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) sum += values[i] * gradients[i];
  }
  sum = row_reduce<Sum>(sum, scratch);
  for (int start = threadIdx.x * COUNT; start < count; start += step) {
    load_pack(y_row, start, count, aligned, values, 0.f);
    load_pack(dy_row, start, count, aligned, gradients, 0.f);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) values[i] = scale * (values[i] * (gradients[i] - sum));
    store_pack(dx + row * width, start, count, aligned, values);
  }
}

#define SOFTMAX(suffix, T)                                                                                              \
  KERNEL(256, softmax_forward_##suffix, const T *x, T *y, i64 rows, int width, float scale) {                           \
    forward<T>(x, y, rows, width, scale);                                                                               \
  }                                                                                                                     \
  KERNEL(256, softmax_backward_##suffix, const T *y, const T *dy, T *dx, i64 rows, int width, float scale) {            \
    backward<T>(y, dy, dx, rows, width, scale);                                                                         \
  }

SOFTMAX(f32, float)
SOFTMAX(bf16, bf16)
SOFTMAX(f16, f16)
