// Activations, alone or as the gate of a product, forward and backward. One pack of values for each thread.
#include "activation.cuh"

// y = activation(x) * up, or activation(x) where `up` is null.
template <class T> __device__ __forceinline__ void forward(const T *x, const T *up, T *y, i64 count, int activation) {
  constexpr int COUNT = Pack<T>::COUNT;
  const i64 start = (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
  if (start >= count) return;
  const int left = count - start < COUNT ? static_cast<int>(count - start) : COUNT;
  const bool aligned = is_aligned(x) && is_aligned(up) && is_aligned(y);
  float values[COUNT], factors[COUNT];
  load_pack(x + start, 0, left, aligned, values, 0.f);
  if (up) load_pack(up + start, 0, left, aligned, factors, 0.f);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    const float value = activate(activation, values[i]).value;
    values[i] = up ? value * factors[i] : value;
  }
  store_pack(y + start, 0, left, aligned, values);
}

template <class T>
__device__ __forceinline__ void backward(const T *x, const T *up, const T *dy, T *dx, T *dup, i64 count, int activation) {
  constexpr int COUNT = Pack<T>::COUNT;
  const i64 start = (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
  if (start >= count) return;
  const int left = count - start < COUNT ? static_cast<int>(count - start) : COUNT;
  const bool aligned = is_aligned(x) && is_aligned(up) && is_aligned(dy) && is_aligned(dx) && is_aligned(dup);
  float values[COUNT], factors[COUNT], gradients[COUNT];
  load_pack(x + start, 0, left, aligned, values, 0.f);
  load_pack(dy + start, 0, left, aligned, gradients, 0.f);
  if (up) load_pack(up + start, 0, left, aligned, factors, 0.f);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    const Activated activated = activate(activation, values[i]);
    values[i] = (up ? gradients[i] * factors[i] : gradients[i]) * activated.slope;
    factors[i] = gradients[i] * activated.value;
  }
  store_pack(dx + start, 0, left, aligned, values);
  if (up) store_pack(dup + start, 0, left, aligned, factors);
}

#define GLU(suffix, T)                                                                                                  \
  KERNEL(256, glu_forward_##suffix, const T *x, const T *up, T *y, i64 count, int activation) {                         \
    forward<T>(x, up, y, count, activation);                                                                            \
  }                                                                                                                     \
  KERNEL(256, glu_backward_##suffix, const T *x, const T *up, const T *dy, T *dx, T *dup, i64 count, int activation) {  \
    backward<T>(x, up, dy, dx, dup, count, activation);                                                                 \
  }

GLU(f32, float)
GLU(bf16, bf16)
GLU(f16, f16)
