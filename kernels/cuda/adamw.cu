// AdamW on several tensors at once, and the norm of all gradients that clips them.
//
// A launch takes up to four tensors. A block handles one chunk of one tensor; which, follows from the number of chunks of the
// tensors before it. Sums of squares of chunks go to memory, one for each chunk, and one block adds them up in their order.
#include "common.cuh"

constexpr int CHUNK = 16384;

// Elements `*start` to `*end` of the tensor that the result names.
__device__ __forceinline__ int find(i64 count0, i64 count1, i64 count2, i64 count3, i64 *start, i64 *end) {
  const i64 counts[4] = {count0, count1, count2, count3};
  i64 chunk = blockIdx.x;
  int tensor = 0;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const i64 chunks = (counts[i] + CHUNK - 1) / CHUNK;
    if (tensor == i && chunk >= chunks) {
      chunk -= chunks;
      tensor = i + 1;
    }
  }
  i64 count = count0;
#pragma unroll
  for (int i = 1; i < 4; ++i)
    if (tensor == i) count = counts[i];
  *start = chunk * CHUNK;
  *end = *start + CHUNK < count ? *start + CHUNK : count;
  return tensor;
}

template <class T> __device__ __forceinline__ T *pick(int tensor, T *a, T *b, T *c, T *d) {
  return tensor == 0 ? a : tensor == 1 ? b : tensor == 2 ? c : d;
}

// Sum of squares of a chunk of gradients, to `partial[first + blockIdx.x]`.
template <class T>
__device__ __forceinline__ void squares(const T *g0, const T *g1, const T *g2, const T *g3, i64 count0, i64 count1, i64 count2, i64 count3,
                                        float *partial, i64 first) {
  constexpr int COUNT = Pack<T>::COUNT;
  SHARED(float, scratch, 32);
  i64 start, end;
  const int tensor = find(count0, count1, count2, count3, &start, &end);
  const T *gradient = pick(tensor, g0, g1, g2, g3);
  const bool aligned = is_aligned(gradient);
  const int count = static_cast<int>(end - start);
  float values[COUNT], sum = 0.f;
  for (int i = threadIdx.x * COUNT; i < count; i += blockDim.x * COUNT) {
    load_pack(gradient + start, i, count, aligned, values, 0.f);
#pragma unroll
    for (int k = 0; k < COUNT; ++k) sum += values[k] * values[k];
  }
  sum = row_reduce<Sum>(sum, scratch);
  if (threadIdx.x == 0) partial[first + blockIdx.x] = sum;
}

// result[0] is the norm of all gradients, result[1] what they are multiplied by.
KERNEL(256, adamw_clip, const float *partial, float *result, i64 count, float most) {
  SHARED(float, scratch, 32);
  float sum = 0.f;
  for (i64 i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
  sum = row_reduce<Sum>(sum, scratch);
  if (threadIdx.x != 0) return;
  const float norm = sqrtf(sum);
  result[0] = norm;
  // A norm that is not a number makes the factor not a number: the step shows it, instead of passing it by.
  result[1] = norm <= most ? 1.f : most / (norm + 1e-6f);
}

// One step for a chunk. `clip` is the result of adamw_clip, or null; `copy` takes the parameters rounded to T, or is null.
template <class T>
__device__ __forceinline__ void step(float *parameters, const T *gradients, float *first_moment, float *second_moment, T *copy, i64 start, i64 end,
                                     const float *clip, float beta1, float beta2, float epsilon, float keep, float step_size, float second_scale) {
  const float factor = clip ? clip[1] : 1.f;
  for (i64 i = start + threadIdx.x; i < end; i += blockDim.x) {
    const float gradient = to_f32(gradients[i]) * factor;
    const float m = beta1 * first_moment[i] + (1.f - beta1) * gradient;
    const float v = beta2 * second_moment[i] + (1.f - beta2) * (gradient * gradient);
    const float parameter = parameters[i] * keep - step_size * m / (sqrtf(v) * second_scale + epsilon);
    first_moment[i] = m;
    second_moment[i] = v;
    parameters[i] = parameter;
    if (copy) copy[i] = from_f32<T>(parameter);
  }
}

#define ADAMW(suffix, T)                                                                                                             \
  KERNEL(256, adamw_squares_##suffix, const T *g0, const T *g1, const T *g2, const T *g3, i64 count0, i64 count1, i64 count2, i64 count3, \
         float *partial, i64 first) {                                                                                                \
    squares<T>(g0, g1, g2, g3, count0, count1, count2, count3, partial, first);                                                      \
  }                                                                                                                                  \
  KERNEL(256, adamw_step_##suffix, float *p0, float *p1, float *p2, float *p3, const T *g0, const T *g1, const T *g2, const T *g3,   \
         float *m0, float *m1, float *m2, float *m3, float *v0, float *v1, float *v2, float *v3, T *c0, T *c1, T *c2, T *c3,         \
         i64 count0, i64 count1, i64 count2, i64 count3, const float *clip, float beta1, float beta2, float epsilon, float keep,     \
         float step_size, float second_scale) {                                                                                      \
    i64 start, end;                                                                                                                  \
    const int tensor = find(count0, count1, count2, count3, &start, &end);                                                           \
    step<T>(pick(tensor, p0, p1, p2, p3), pick(tensor, g0, g1, g2, g3), pick(tensor, m0, m1, m2, m3), pick(tensor, v0, v1, v2, v3),  \
            pick(tensor, c0, c1, c2, c3), start, end, clip, beta1, beta2, epsilon, keep, step_size, second_scale);                   \
  }

ADAMW(f32, float)
ADAMW(bf16, bf16)
ADAMW(f16, f16)
