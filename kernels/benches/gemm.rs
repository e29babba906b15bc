//! Packed products at the sizes of transformer layers, with every engine that the machine has, and plain products as
//! gradients need them. One thread. Throughput is in multiply-adds: twice as many operations.
//!
//! `benches/peers/gemm_peer.py` compares with torch.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panicking; criterion's macro makes a public function"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gristmill_kernels::gemm::{
    Engine, GemmOptions, MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values, gemm,
};

/// Numbers between -1 and 1; none is subnormal.
fn numbers(count: usize) -> Vec<f32> {
    (0..count as u32).map(|index| (index.wrapping_mul(0x9e37_79b1) >> 8) as f32 / (1 << 23) as f32 - 0.999).collect()
}

fn packed(criterion: &mut Criterion) {
    for precision in [Precision::F32, Precision::Bf16] {
        let mut group = criterion.benchmark_group(format!("packed {precision:?}"));
        group.sample_size(10);
        for (inputs, outputs) in [(768, 3072), (3072, 768), (2048, 8192)] {
            let weights = numbers(inputs * outputs);
            let weights = Matrix::row_major(Values::F32(&weights), outputs, inputs).unwrap();
            let weights = PackedWeights::pack(weights, precision).unwrap();
            for tokens in [1, 8, 64, 512] {
                let x = numbers(tokens * inputs);
                let x = Matrix::row_major(Values::F32(&x), tokens, inputs).unwrap();
                let mut y = vec![0.0; tokens * outputs];
                group.throughput(Throughput::Elements((tokens * inputs * outputs) as u64));
                for engine in Engine::available().into_iter().filter(|engine| engine.computes(precision)) {
                    let options = MatmulOptions { engine: Some(engine), ..Default::default() };
                    let id = BenchmarkId::new(format!("{engine:?}"), format!("{tokens} x {inputs} x {outputs}"));
                    group.bench_function(id, |bencher| {
                        bencher.iter(|| {
                            weights
                                .matmul(x, MatrixMut::row_major(&mut y, tokens, outputs).unwrap(), &options)
                                .unwrap();
                        });
                    });
                }
            }
        }
        group.finish();
    }
}

/// δᵀ·x, the gradient of weights, over so many tokens.
fn gradients(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gradient of weights F32");
    group.sample_size(10);
    for (tokens, inputs, outputs) in [(512, 768, 768), (2048, 768, 3072), (512, 64, 64)] {
        let (delta, x) = (numbers(tokens * outputs), numbers(tokens * inputs));
        let delta = Matrix::row_major(Values::F32(&delta), tokens, outputs).unwrap().transposed();
        let x = Matrix::row_major(Values::F32(&x), tokens, inputs).unwrap();
        let mut gradient = vec![0.0; outputs * inputs];
        group.throughput(Throughput::Elements((tokens * inputs * outputs) as u64));
        for engine in Engine::available().into_iter().filter(|engine| engine.computes(Precision::F32)) {
            let options = GemmOptions { engine: Some(engine), ..Default::default() };
            let id = BenchmarkId::new(format!("{engine:?}"), format!("{tokens} x {inputs} x {outputs}"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    gemm(delta, x, MatrixMut::row_major(&mut gradient, outputs, inputs).unwrap(), &options).unwrap();
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, packed, gradients);
criterion_main!(benches);
