// Attention of packed documents, forward and backward, without a matrix of scores in memory (FlashAttention-2, Dao, 2023).
//
// A lane is a query of one head. The forward pass and the gradient of queries give a block some lanes of one document, all of one
// key head, and walk over the keys that any of them sees; the gradient of keys and values gives a block some keys, and walks over
// the lanes that see any. So nothing is added by two blocks, and sums have a fixed order. Tiles begin at the beginning of their
// document, whose neighbours in the batch are therefore nothing to it.
//
// Kernels exist for heads of up to 64, 96, 128 and 256 elements; narrower ones are padded with zeros in shared memory.
#include "attention_plain.cuh"
#include "attention_tensor.cuh"

#define INPUT(T, name) const T *name##_start, i64 name##_row, i64 name##_head
#define OUTPUT(T, name) T *name##_start, i64 name##_row, i64 name##_head
#define GIVEN(T, name) Heads<const T>{name##_start, name##_row, name##_head}
#define RESULT(T, name) Heads<T>{name##_start, name##_row, name##_head}

#define FORWARD(suffix, T, threads, ...)                                                                                      \
  KERNEL(threads, attention_forward_##suffix, ATTENTION_SHAPE, INPUT(T, q), INPUT(T, k), INPUT(T, v), OUTPUT(T, o), float *log_sums) { \
    const Shape shape ATTENTION_SHAPE_VALUES;                                                                                  \
    __VA_ARGS__(shape, GIVEN(T, q), GIVEN(T, k), GIVEN(T, v), RESULT(T, o), log_sums);                                         \
  }

#define BACKWARD(suffix, T, threads, wide, form)                                                                               \
  KERNEL(threads, attention_backward_queries_##suffix, ATTENTION_SHAPE, INPUT(T, q), INPUT(T, k), INPUT(T, v), INPUT(T, d_o),  \
         const float *log_sums, const float *products, OUTPUT(T, dq)) {                                                        \
    const Shape shape ATTENTION_SHAPE_VALUES;                                                                                  \
    form##_backward_queries<wide>(shape, GIVEN(T, q), GIVEN(T, k), GIVEN(T, v), GIVEN(T, d_o), log_sums, products, RESULT(T, dq)); \
  }                                                                                                                            \
  KERNEL(threads, attention_backward_keys_##suffix, ATTENTION_SHAPE, INPUT(T, q), INPUT(T, k), INPUT(T, v), INPUT(T, d_o),     \
         const float *log_sums, const float *products, OUTPUT(T, dk), OUTPUT(T, dv)) {                                         \
    const Shape shape ATTENTION_SHAPE_VALUES;                                                                                  \
    form##_backward_keys<wide>(shape, GIVEN(T, q), GIVEN(T, k), GIVEN(T, v), GIVEN(T, d_o), log_sums, products, RESULT(T, dk), RESULT(T, dv)); \
  }

#define PRODUCTS(suffix, T)                                                                                                    \
  KERNEL(256, attention_products_##suffix, INPUT(T, o), INPUT(T, d_o), float *sums, i64 rows, int heads, int width) {          \
    products<T>(GIVEN(T, o), GIVEN(T, d_o), sums, rows, heads, width);                                                         \
  }

#define TENSOR(suffix, T)                                                              \
  PRODUCTS(suffix, T)                                                                  \
  FORWARD(64_##suffix, T, TENSOR_THREADS, tensor_forward<T, 64, 2, 32>)                \
  FORWARD(96_##suffix, T, TENSOR_THREADS, tensor_forward<T, 96, 1, 64>)                \
  FORWARD(128_##suffix, T, TENSOR_THREADS, tensor_forward<T, 128, 1, 64>)              \
  FORWARD(256_##suffix, T, TENSOR_THREADS, tensor_forward<T, 256, 1, 32>)              \
  BACKWARD(64_##suffix, T, TENSOR_THREADS, 64, tensor)                                 \
  BACKWARD(96_##suffix, T, TENSOR_THREADS, 96, tensor)                                 \
  BACKWARD(128_##suffix, T, TENSOR_THREADS, 128, tensor)                               \
  BACKWARD(256_##suffix, T, TENSOR_THREADS, 256, tensor)

#define PLAIN(suffix)                                                                  \
  PRODUCTS(suffix, float)                                                              \
  FORWARD(64_##suffix, float, PLAIN_THREADS, plain_forward<64>)                        \
  FORWARD(128_##suffix, float, PLAIN_THREADS, plain_forward<128>)                      \
  FORWARD(256_##suffix, float, PLAIN_THREADS, plain_forward<256>)                      \
  BACKWARD(64_##suffix, float, PLAIN_THREADS, 64, plain)                               \
  BACKWARD(128_##suffix, float, PLAIN_THREADS, 128, plain)                             \
  BACKWARD(256_##suffix, float, PLAIN_THREADS, 256, plain)

TENSOR(bf16, bf16)
TENSOR(f16, f16)
PLAIN(f32)
