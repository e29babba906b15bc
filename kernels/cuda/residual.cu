// The residual stream of a transformer, which is f32 whatever the type that layers compute in: token embeddings gathered into it, norms from it to a layer's
// input and from a layer's result into it, and values kept within a magnitude, forward and back.
#include "common.cuh"

// x = tokens[id] + segment + positions[place], a block for each token; `segment` and `positions` may be null. An id or a place that the tables do not
// have gives values that are not numbers, not a read from somewhere else.
template <class T>
__device__ __forceinline__ void embed(const T *tokens, const T *positions, const float *segment, const int *ids, const int *places, float *x, int width,
                                      int vocabulary, int position_rows) {
  const i64 token = blockIdx.x;
  const int id = ids[token], at = positions ? places[token] : 0;
  const bool known = id >= 0 && id < vocabulary && (!positions || (at >= 0 && at < position_rows));
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    float value = __int_as_float(0x7fc00000);
    if (known) {
      value = to_f32(tokens[static_cast<i64>(id) * width + i]);
      if (segment) value += segment[i];
      if (positions) value += to_f32(positions[static_cast<i64>(at) * width + i]);
    }
    x[token * width + i] = value;
  }
}

// The numbers of src/residual/launch.rs.
constexpr int NO_NORM = 0, LAYER = 2;  // 1 is RMSNorm.

// v = norm(x) * weight + bias, then z = z + v (`add`) or z = v, and y = T(z); `z` may be x, and each of z and y may be null. A row has the
// threads of one threadIdx.y; which thread adds what up follows from the width alone.
template <class T>
__device__ __forceinline__ void norm(const float *x, const float *weight, const float *bias, float *z, T *y, i64 rows, int width, float epsilon, int kind,
                                     int add) {
  constexpr int COUNT = Pack<float>::COUNT;
  SHARED(float, scratch, 32);
  const i64 row = static_cast<i64>(blockIdx.x) * blockDim.y + threadIdx.y;
  // A row beyond the last has no values, but its threads take part in the barriers of the block.
  const int count = row < rows ? width : 0, step = blockDim.x * COUNT;
  const float *const from = x + row * width;
  const bool aligned = is_aligned(x) && is_aligned(weight) && is_aligned(bias) && is_aligned(z) && width % COUNT == 0;
  float values[COUNT], others[COUNT], mean = 0.f, scale = 1.f;
  if (kind == LAYER) {
    float sum = 0.f;
    for (int start = threadIdx.x * COUNT; start < count; start += step) {
      load_pack(from, start, count, aligned, values, 0.f);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) sum += values[i];
    }
    mean = row_reduce<Sum>(sum, scratch) / width;
  }
  if (kind != NO_NORM) {
    float squares = 0.f;
    for (int start = threadIdx.x * COUNT; start < count; start += step) {
      load_pack(from, start, count, aligned, values, mean);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) squares += (values[i] - mean) * (values[i] - mean);
    }
    scale = 1.f / sqrtf(row_reduce<Sum>(squares, scratch) / width + epsilon);
  }
  for (int start = threadIdx.x * COUNT; start < count; start += step) {
    load_pack(from, start, count, aligned, values, 0.f);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) values[i] = (values[i] - mean) * scale;
    if (weight) {
      load_pack(weight, start, count, aligned, others, 0.f);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) values[i] *= others[i];
    }
    if (bias) {
      load_pack(bias, start, count, aligned, others, 0.f);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) values[i] += others[i];
    }
    if (z) {
      if (add) {
        load_pack(z + row * width, start, count, aligned, others, 0.f);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) values[i] += others[i];
      }
      store_pack(z + row * width, start, count, aligned, values);
    }
    if (!y) continue;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
      if (start + i < count) y[row * width + start + i] = from_f32<T>(values[i]);
  }
}

// Values that are not numbers stay such.
template <class T> __device__ __forceinline__ void clamp(T *x, i64 count, float most) {
  constexpr int COUNT = Pack<T>::COUNT;
  const i64 start = (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
  if (start >= count) return;
  const int left = count - start < COUNT ? static_cast<int>(count - start) : COUNT;
  const bool aligned = is_aligned(x);
  float values[COUNT];
  load_pack(x + start, 0, left, aligned, values, 0.f);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) values[i] = values[i] < -most ? -most : values[i] > most ? most : values[i];
  store_pack(x + start, 0, left, aligned, values);
}

// The way back through a clamp of x: nothing goes through a value that was moved.
template <class T> __device__ __forceinline__ void clamp_backward(const T *x, T *gradient, i64 count, float most) {
  constexpr int COUNT = Pack<T>::COUNT;
  const i64 start = (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
  if (start >= count) return;
  const int left = count - start < COUNT ? static_cast<int>(count - start) : COUNT;
  const bool aligned = is_aligned(x) && is_aligned(gradient);
  float values[COUNT], gradients[COUNT];
  load_pack(x + start, 0, left, aligned, values, 0.f);
  load_pack(gradient + start, 0, left, aligned, gradients, 0.f);
#pragma unroll
  for (int i = 0; i < COUNT; ++i)
    if (values[i] < -most || values[i] > most) gradients[i] = 0.f;
  store_pack(gradient + start, 0, left, aligned, gradients);
}

#define RESIDUAL(suffix, T)                                                                                                              \
  KERNEL(256, residual_embed_##suffix, const T *tokens, const T *positions, const float *segment, const int *ids, const int *places,     \
         float *x, int width, int vocabulary, int position_rows) {                                                                       \
    embed<T>(tokens, positions, segment, ids, places, x, width, vocabulary, position_rows);                                              \
  }                                                                                                                                      \
  KERNEL(256, residual_norm_##suffix, const float *x, const float *weight, const float *bias, float *z, T *y, i64 rows, int width,       \
         float epsilon, int kind, int add) {                                                                                             \
    norm<T>(x, weight, bias, z, y, rows, width, epsilon, kind, add);                                                                     \
  }                                                                                                                                      \
  KERNEL(256, residual_clamp_##suffix, T *x, i64 count, float most) { clamp<T>(x, count, most); }                                        \
  KERNEL(256, residual_clamp_backward_##suffix, const T *x, T *gradient, i64 count, float most) { clamp_backward<T>(x, gradient, count, most); }

RESIDUAL(f32, float)
RESIDUAL(bf16, bf16)
RESIDUAL(f16, f16)
