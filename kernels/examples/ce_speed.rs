use gristmill_kernels::gemm::*;
use gristmill_kernels::linear_ce::*;
use gristmill_kernels::workers::Serial;
use std::time::Instant;
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).take(3).map(|a| a.parse().unwrap()).collect();
    let what: Vec<String> = std::env::args().skip(4).collect();
    let has = |s: &str| what.iter().any(|w| w == s);
    let (t, d, v) = (a[0], a[1], a[2]);
    let mut seed = 1u64;
    let mut num = |n: usize, s: f32| -> Vec<f32> {
        (0..n)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                ((seed >> 40) as f32 / 8388608.0 - 1.0) * s
            })
            .collect()
    };
    let hidden = num(t * d, 1.0);
    let w = num(v * d, 0.05);
    let ids: Vec<i32> = (0..t).map(|i| (i * 7919 % v) as i32).collect();
    let precision = if has("bf16") { Precision::Bf16 } else { Precision::F32 };
    let m = Matrix::row_major(Values::F32(&w), v, d).unwrap();
    let head =
        if has("fwd") { Head::new(m, None, precision) } else { Head::with_gradients(m, None, precision) }.unwrap();
    let ce = LinearCe { width: d, vocabulary: v, logit_scale: 1.0, label_smoothing: 0.0 };
    let (mut loss, mut lse, mut rank) = (vec![0.0; t], vec![0.0; t], vec![0; t]);
    let mut dh = vec![0.0; t * d];
    let g = vec![1.0; t];
    let flop = 2.0 * (t * d * v) as f64;
    let gv = v.min(4096);
    let packed = PackedWeights::pack(Matrix::row_major(Values::F32(&w[..gv * d]), gv, d).unwrap(), precision).unwrap();
    let mut y = vec![0.0; t * gv];
    let best = |f: &mut dyn FnMut()| {
        f();
        let mut b = f64::INFINITY;
        for _ in 0..3 {
            let s = Instant::now();
            f();
            b = b.min(s.elapsed().as_secs_f64());
        }
        b
    };
    let s = best(&mut || {
        packed
            .matmul(
                Matrix::row_major(Values::F32(&hidden), t, d).unwrap(),
                MatrixMut::row_major(&mut y, t, gv).unwrap(),
                &MatmulOptions::default(),
            )
            .unwrap()
    });
    println!("gemm {t}x{d}x{gv} {precision:?}: {:.1} GFLOP/s", 2.0 * (t * d * gv) as f64 / s / 1e9);
    let s = best(&mut || {
        ce.forward(
            &Serial,
            &hidden,
            &head,
            Tokens { ids: Ids::I32(&ids), offsets: None },
            Scores::new(&mut loss, &mut lse),
        )
        .unwrap()
    });
    println!("forward {s:.3} s, {:.1} GFLOP/s, {:.1} MB", flop / s / 1e9, ce.forward_memory(1) as f64 / 1e6);
    if has("rank") {
        let s = best(&mut || {
            ce.forward(
                &Serial,
                &hidden,
                &head,
                Tokens { ids: Ids::I32(&ids), offsets: None },
                Scores { rank: Some(&mut rank), ..Scores::new(&mut loss, &mut lse) },
            )
            .unwrap()
        });
        println!("forward with ranks {s:.3} s, {:.1} GFLOP/s", flop / s / 1e9);
    }
    if has("fwd") {
        return;
    }
    let s = best(&mut || {
        ce.backward(&Serial, &hidden, &head, Ids::I32(&ids), &lse, &g, Gradients { hidden: Some(&mut dh), head: None })
            .unwrap()
    });
    println!(
        "backward to h {s:.3} s, {:.1} GFLOP/s, {:.1} MB",
        2.0 * flop / s / 1e9,
        ce.backward_memory(1) as f64 / 1e6
    );
    if has("dw") {
        let mut dw = vec![0.0; v * d];
        let s = best(&mut || {
            ce.backward(
                &Serial,
                &hidden,
                &head,
                Ids::I32(&ids),
                &lse,
                &g,
                Gradients { hidden: Some(&mut dh), head: Some(HeadGradients { weights: &mut dw, bias: None }) },
            )
            .unwrap()
        });
        println!("backward to h and W {s:.3} s, {:.1} GFLOP/s", 3.0 * flop / s / 1e9);
    }
}
