// The part of CUDA C++ that the kernels use, for an ordinary C++ compiler. Included by cuda/common.cuh in place of CUDA's headers.
// Each CUDA thread runs as a fiber; runtime.cpp schedules them. What is not here (inline PTX, clusters) cannot run on the
// CPU, and a kernel needs a plain form of it, as cuda/mma.cuh has of tensor cores and asynchronous copies.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __restrict__ __restrict
#define warpSize 32

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace gristmill_shim {

// What the running fiber sees as threadIdx and so on.
struct View {
  uint3 thread_index, block_index;
  dim3 block, grid;
  unsigned linear;
};
extern thread_local View view;

// A piece of shared memory of the running block.
struct Region {
  char *base;
  size_t bytes;
  const char *name;
  void *shadow;
};

enum class Access { READ, WRITE, ATOMIC };
enum class Meeting { SYNC, SHUFFLE, SHUFFLE_XOR, SHUFFLE_DOWN, SHUFFLE_UP, VOTE, WHOLE };

void barrier(int site);
int barrier_count(int site, int predicate);
// All lanes of `mask` that have not returned meet; `values` gets what each brought.
void meet(uint32_t mask, uint64_t value, Meeting kind, uint64_t (&values)[32]);
// All 32 lanes of the warp meet, none of which may have returned.
void meet_whole(uint64_t value, uint64_t (&values)[32]);
uint64_t exchange(uint32_t mask, uint64_t value, Meeting kind, int source);
const Region *shared_region(const void *tag, size_t bytes, const char *name);
const Region *dynamic_region(const char *name);
void touch(const Region *region, const void *address, Access access);
// Copies of 16 bytes, `valid` of them from memory and zeros for the rest. A copy takes place when its thread waits for its group:
// who reads too early then reads what was there before.
void copy_async(const Region *region, void *to, const void *from, int valid);
void copies_commit();
void copies_wait(int pending);
[[noreturn]] void out_of_bounds(const Region *region, const void *address, size_t size);
[[noreturn]] void fault(const char *message);

// Reads and writes of one value of shared memory, each reported to the runtime.
template <class T> class SharedRef {
 public:
  SharedRef(T *address, const Region *region) : address_(address), region_(region) {}
  SharedRef(const SharedRef &) = default;
  operator T() const {
    touch(region_, address_, Access::READ);
    return *address_;
  }
  const SharedRef &operator=(T value) const {
    touch(region_, address_, Access::WRITE);
    *address_ = value;
    return *this;
  }
  const SharedRef &operator=(const SharedRef &other) const { return *this = static_cast<T>(other); }
  const SharedRef &operator+=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) + value); }
  const SharedRef &operator-=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) - value); }
  const SharedRef &operator*=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) * value); }
  const SharedRef &operator|=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) | value); }
  T *atomic() const {
    touch(region_, address_, Access::ATOMIC);
    return address_;
  }
  template <class U> friend class SharedPointer;

 private:
  T *address_;
  const Region *region_;
};

template <class T> class SharedPointer {
 public:
  SharedPointer() : address_(nullptr), region_(nullptr) {}
  explicit SharedPointer(const Region *region) : address_(reinterpret_cast<T *>(region->base)), region_(region) {}
  SharedPointer(T *address, const Region *region) : address_(address), region_(region) {}
  SharedRef<T> operator[](int64_t index) const {
    T *at = address_ + index;
    const char *byte = reinterpret_cast<const char *>(at);
    if (!region_) fault("shared memory is used through an empty pointer");
    if (byte < region_->base || byte + sizeof(T) > region_->base + region_->bytes) out_of_bounds(region_, at, sizeof(T));
    return SharedRef<T>(at, region_);
  }
  SharedRef<T> operator*() const { return (*this)[0]; }
  const Region *region() const { return region_; }
  T *address() const { return address_; }
  SharedPointer operator+(int64_t offset) const { return SharedPointer(address_ + offset, region_); }
  SharedPointer operator-(int64_t offset) const { return SharedPointer(address_ - offset, region_); }
  template <class U> SharedPointer<U> as() const {
    if (reinterpret_cast<uintptr_t>(address_) % alignof(U)) fault("shared memory is cast to a type of greater alignment");
    return SharedPointer<U>(reinterpret_cast<U *>(address_), region_);
  }

 private:
  T *address_;
  const Region *region_;
};

template <class T> uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8, "warp intrinsics move at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T> T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline int lane() { return static_cast<int>(view.linear & 31); }
template <class T> T shuffle(uint32_t mask, T value, Meeting kind, int source, bool valid) {
  return from_bits<T>(exchange(mask, to_bits(value), kind, valid ? source : lane()));
}

// Kernels by name. `kinds` has a letter for each parameter: p(ointer), f(loat), d(ouble), i (4 bytes), l (8 bytes).
struct Kernel {
  const char *name;
  unsigned threads;
  const char *kinds;
  void (*invoke)(void **arguments);
  Kernel *next;
  Kernel(const char *name, unsigned threads, const char *kinds, void (*invoke)(void **));
};

template <class T> constexpr char kind() {
  if constexpr (std::is_pointer_v<T>) return 'p';
  else if constexpr (std::is_same_v<T, float>) return 'f';
  else if constexpr (std::is_same_v<T, double>) return 'd';
  else {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "kernel parameters are pointers or numbers of 4 or 8 bytes");
    return sizeof(T) == 4 ? 'i' : 'l';
  }
}
template <auto F> struct Invoke;
template <class... A, void (*F)(A...)> struct Invoke<F> {
  static constexpr char KINDS[] = {kind<A>()..., 0};
  template <size_t... I> static void call(void **arguments, std::index_sequence<I...>) { F(*static_cast<A *>(arguments[I])...); }
  static void run(void **arguments) { call(arguments, std::index_sequence_for<A...>{}); }
};

}  // namespace gristmill_shim

#define KERNEL(threads, name, ...)                                                                               \
  extern "C" void name(__VA_ARGS__);                                                                             \
  static gristmill_shim::Kernel name##_entry(#name, threads, gristmill_shim::Invoke<&name>::KINDS,               \
                                             &gristmill_shim::Invoke<&name>::run);                               \
  extern "C" void name(__VA_ARGS__)
#define KERNEL_BLOCKS(threads, blocks, name, ...) KERNEL(threads, name, __VA_ARGS__)
#define SHARED(T, name, count)                                                                                   \
  static const char name##_tag = 0;                                                                              \
  const gristmill_shim::SharedPointer<T> name(gristmill_shim::shared_region(&name##_tag, sizeof(T) * (count), #name))
#define DYNAMIC_SHARED(T, name) const gristmill_shim::SharedPointer<T> name(gristmill_shim::dynamic_region(#name))
template <class T> using SharedPtr = gristmill_shim::SharedPointer<T>;

#define threadIdx (gristmill_shim::view.thread_index)
#define blockIdx (gristmill_shim::view.block_index)
#define blockDim (gristmill_shim::view.block)
#define gridDim (gristmill_shim::view.grid)

#define __syncthreads() gristmill_shim::barrier(__COUNTER__)
#define __syncthreads_count(predicate) gristmill_shim::barrier_count(__COUNTER__, (predicate))
#define __syncthreads_or(predicate) (gristmill_shim::barrier_count(__COUNTER__, (predicate)) != 0)
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  uint64_t values[32];
  gristmill_shim::meet(mask, 0, gristmill_shim::Meeting::SYNC, values);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  const int lane = gristmill_shim::lane();
  return gristmill_shim::shuffle(mask, value, gristmill_shim::Meeting::SHUFFLE, (lane & ~(width - 1)) | (source & (width - 1)), true);
}
template <class T> T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
  const int lane = gristmill_shim::lane(), source = lane ^ bits;
  return gristmill_shim::shuffle(mask, value, gristmill_shim::Meeting::SHUFFLE_XOR, source, source / width <= lane / width);
}
template <class T> T __shfl_down_sync(uint32_t mask, T value, unsigned by, int width = 32) {
  const int lane = gristmill_shim::lane(), source = lane + static_cast<int>(by);
  return gristmill_shim::shuffle(mask, value, gristmill_shim::Meeting::SHUFFLE_DOWN, source, (lane & (width - 1)) + static_cast<int>(by) < width);
}
template <class T> T __shfl_up_sync(uint32_t mask, T value, unsigned by, int width = 32) {
  const int lane = gristmill_shim::lane(), source = lane - static_cast<int>(by);
  return gristmill_shim::shuffle(mask, value, gristmill_shim::Meeting::SHUFFLE_UP, source, (lane & (width - 1)) >= static_cast<int>(by));
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  uint64_t values[32];
  gristmill_shim::meet(mask, predicate != 0, gristmill_shim::Meeting::VOTE, values);
  uint32_t votes = 0;
  for (int i = 0; i < 32; i++)
    if ((mask >> i & 1) && values[i]) votes |= 1u << i;
  return votes;
}
inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

// One fiber runs at a time, so plain arithmetic is atomic.
template <class T, class V> T atomicAdd(T *at, V value) {
  T old = *at;
  *at = static_cast<T>(old + value);
  return old;
}
template <class T, class V> T atomicMax(T *at, V value) {
  T old = *at;
  if (static_cast<T>(value) > old) *at = static_cast<T>(value);
  return old;
}
template <class T, class V> T atomicMin(T *at, V value) {
  T old = *at;
  if (static_cast<T>(value) < old) *at = static_cast<T>(value);
  return old;
}
template <class T, class V> T atomicOr(T *at, V value) {
  T old = *at;
  *at = static_cast<T>(old | value);
  return old;
}
template <class T, class V> T atomicAnd(T *at, V value) {
  T old = *at;
  *at = static_cast<T>(old & value);
  return old;
}
template <class T, class V> T atomicExch(T *at, V value) {
  T old = *at;
  *at = static_cast<T>(value);
  return old;
}
template <class T, class C, class V> T atomicCAS(T *at, C compare, V value) {
  T old = *at;
  if (old == static_cast<T>(compare)) *at = static_cast<T>(value);
  return old;
}
// The same on shared memory: `&shared[i]` on the GPU is `SHARED_ADDRESS(shared[i])` here.
#define SHARED_ADDRESS(reference) ((reference).atomic())

template <class T> T __ldg(const T *at) { return *at; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frcp_rn(float a) { return 1.f / a; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __int_as_float(int x) { return gristmill_shim::from_bits<float>(gristmill_shim::to_bits(x)); }
inline int __float_as_int(float x) { return gristmill_shim::from_bits<int>(gristmill_shim::to_bits(x)); }
inline float __uint_as_float(unsigned x) { return gristmill_shim::from_bits<float>(gristmill_shim::to_bits(x)); }
inline unsigned __float_as_uint(float x) { return gristmill_shim::from_bits<unsigned>(gristmill_shim::to_bits(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
template <class T> T min(T a, T b) { return a < b ? a : b; }
template <class T> T max(T a, T b) { return a > b ? a : b; }

// Half precision as bits with conversions; kernels compute in f32.
struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
  unsigned bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  bits += 0x7fffu + (bits >> 16 & 1);
  return {static_cast<uint16_t>(bits >> 16)};
}
inline float __half2float(__half x) {
  const unsigned sign = static_cast<unsigned>(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) return __uint_as_float(sign | __float_as_uint(static_cast<float>(fraction) * 5.9604644775390625e-8f));
  return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}
inline __half __float2half(float x) {
  const unsigned bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000u) return {0x7fff};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude < 0x38800000u) {
    // Below the smallest normal number: adding 0.5 puts the last bit of a half at the last bit of the float, rounded to even.
    const unsigned rounded = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u;
    return {static_cast<uint16_t>(sign | rounded)};
  }
  const unsigned rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
  return {static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13)};
}
