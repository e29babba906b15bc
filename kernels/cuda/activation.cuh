// Activations of feed-forward layers with their slopes: those of src/glu/mod.rs.
#pragma once
#include "common.cuh"

// The numbers of src/glu/mod.rs.
constexpr int GELU_ERF = 1, GELU_TANH = 2;  // 0 is SiLU.

struct Activated {
  float value, slope;
};

// SiLU is x * s(x) and the tanh form of GELU x * s(2u), s being the logistic function: 0.5 * (1 + tanh(u)) is s(2u), and does
// not cancel where u is far below zero.
__device__ __forceinline__ Activated activate(int activation, float x) {
  if (activation == GELU_ERF) {
    const float phi = 0.5f * (1.f + erff(x * 0.70710678118654752f));
    return {x * phi, phi + x * (0.39894228040143268f * expf(-0.5f * x * x))};
  }
  float inner = x, inner_slope = 1.f;
  if (activation == GELU_TANH) {
    inner = 1.5957691216057308f * (x + 0.044715f * x * x * x);
    inner_slope = 1.5957691216057308f * (1.f + 0.134145f * x * x);
  }
  const float gate = 1.f / (1.f + expf(-inner));
  return {x * gate, gate + x * (gate * (1.f - gate)) * inner_slope};
}
