// What every kernel stands on. A kernel is written once, and compiled by nvcc, by NVRTC (which has no standard headers) and, for
// tests without a GPU, by an ordinary C++ compiler on top of shim/include/gristmill_shim.h. Therefore kernels
//   * are declared with KERNEL(threads, name, parameters...), threads being the most that one block may have, or with
//     KERNEL_BLOCKS(threads, blocks, name, parameters...), where a multiprocessor shall hold so many blocks: the compiler then takes
//     the registers that this leaves, where it would take fewer and spill;
//   * declare shared memory with SHARED(type, name, count) or DYNAMIC_SHARED(type, name), hand it on as SharedPtr<type>, and index
//     it in one dimension: then the shim sees each access, and reports those out of bounds and those that no barrier separates;
//   * read half-precision values with to_f32 and write them with from_f32, and compute in f32;
//   * keep instructions of one architecture only in small functions with a plain form under #ifdef GRISTMILL_SHIM.
#pragma once

#ifdef GRISTMILL_SHIM
#include "gristmill_shim.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)
#define KERNEL_BLOCKS(threads, blocks, name, ...) extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#define SHARED(T, name, count) __shared__ __align__(16) T name[count]
#define DYNAMIC_SHARED(T, name) extern __shared__ __align__(16) unsigned char gristmill_dynamic[]; T *name = reinterpret_cast<T *>(gristmill_dynamic)
template <class T> using SharedPtr = T *;
// Of a value of shared memory, for an atomic.
#define SHARED_ADDRESS(reference) (&(reference))
#endif

using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;
using bf16 = __nv_bfloat16;
using f16 = __half;

constexpr u32 FULL_MASK = 0xffffffffu;
constexpr int WARP = 32;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }
template <class T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16(x); }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half(x); }

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// 16 bytes of values: what one thread moves at once where addresses allow.
template <class T> struct alignas(16) Pack {
  static constexpr int COUNT = 16 / sizeof(T);
  T values[COUNT];
};

template <class T> __device__ __forceinline__ bool is_aligned(const T *address) {
  return (reinterpret_cast<u64>(address) & 15) == 0;
}

// Which thread handles which element must depend on the shape alone, or the order of additions would change with an address. So
// the element to thread mapping is always by packs, and only the way of moving a pack differs.
template <class T> __device__ __forceinline__ void load_pack(const T *from, int start, int count, bool aligned, float (&to)[Pack<T>::COUNT], float fill) {
  constexpr int COUNT = Pack<T>::COUNT;
  if (aligned && start + COUNT <= count) {
    const Pack<T> pack = *reinterpret_cast<const Pack<T> *>(from + start);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) to[i] = to_f32(pack.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) to[i] = start + i < count ? to_f32(from[start + i]) : fill;
  }
}

template <class T> __device__ __forceinline__ void store_pack(T *to, int start, int count, bool aligned, const float (&from)[Pack<T>::COUNT]) {
  constexpr int COUNT = Pack<T>::COUNT;
  if (aligned && start + COUNT <= count) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) pack.values[i] = from_f32<T>(from[i]);
    *reinterpret_cast<Pack<T> *>(to + start) = pack;
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
      if (start + i < count) to[start + i] = from_f32<T>(from[i]);
  }
}

struct Sum {
  static __device__ __forceinline__ float identity() { return 0.f; }
  static __device__ __forceinline__ float join(float a, float b) { return a + b; }
};

// A value that is not a number wins, so that it is not lost in a maximum.
struct Max {
  static __device__ __forceinline__ float identity() { return -infinity(); }
  static __device__ __forceinline__ float join(float a, float b) { return a != a || a > b ? a : b; }
};

// The result in every lane of the warp, the same bits in each: the exchange is a butterfly of commutative steps.
template <class Join> __device__ __forceinline__ float warp_reduce(float value) {
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset >>= 1) value = Join::join(value, __shfl_xor_sync(FULL_MASK, value, offset));
  return value;
}

// Reduces over the threads of one row of the block, threadIdx.x, for each threadIdx.y apart; blockDim.x is a multiple of 32. Every
// thread gets the result. `scratch` holds one value for each warp of the block. All threads of the block must call it.
template <class Join> __device__ __forceinline__ float row_reduce(float value, SharedPtr<float> scratch) {
  value = warp_reduce<Join>(value);
  const int warps = blockDim.x / WARP;
  if (warps == 1) return value;
  const int row = threadIdx.y * warps;
  if (threadIdx.x % WARP == 0) scratch[row + threadIdx.x / WARP] = value;
  __syncthreads();
  float total = Join::identity();
  for (int i = 0; i < warps; ++i) total = Join::join(total, scratch[row + i]);
  // The next use of `scratch` must not overtake the reads of this one.
  __syncthreads();
  return total;
}
