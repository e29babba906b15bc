//! What the table of cases does not show: agreement between calls, sizes that only the twin is fast enough for, and refusals.

use crate::attention::{Attention, Backward, Documents, Forward, Heads, KEY_BLOCK as KEYS, Mask};
use crate::check::Random;
use crate::launch::ShapeError;
use crate::workers::Serial;

/// Results and log-sum-exps of dense buffers.
fn forward(
    attention: &Attention,
    documents: Documents<&[i64]>,
    [q, k, v]: [&[f32]; 3],
) -> Result<(Vec<f32>, Vec<f32>), ShapeError> {
    let Attention { query_heads, key_heads, width, .. } = *attention;
    let mut o = vec![f32::NAN; documents.query_rows * query_heads * width];
    let mut log_sums = vec![f32::NAN; documents.query_rows * query_heads];
    let slices = Forward {
        q: Heads::dense(q, query_heads, width),
        k: Heads::dense(k, key_heads, width),
        v: Heads::dense(v, key_heads, width),
        o: Heads::dense(&mut o[..], query_heads, width),
        log_sums: Some(&mut log_sums[..]),
    };
    attention.forward(&Serial, documents, slices)?;
    Ok((o, log_sums))
}

fn normal(random: &mut Random, len: usize) -> Vec<f32> {
    (0..len).map(|_| random.normal() as f32).collect()
}

#[test]
fn queries_that_continue_a_document_have_the_bits_of_one_call() {
    let mut random = Random::new(4);
    let rows = 330;
    for (query_heads, width, mask) in [
        (4, 20, Mask::CAUSAL),
        (2, 64, Mask::CAUSAL),
        (6, 13, Mask::window(50, 0)),
        (4, 20, Mask::window(100, 0)),
        (16, 130, Mask::window(3, 0)),
    ] {
        let attention = Attention { query_heads, key_heads: 2, width, scale: 0.3, mask };
        let (wide, narrow) = (query_heads * width, 2 * width);
        let (q, k) = (normal(&mut random, rows * wide), normal(&mut random, rows * narrow));
        let v = normal(&mut random, rows * narrow);
        let (together, _) = forward(&attention, Documents::same(rows, &[0, rows as i64]), [&q, &k, &v]).unwrap();
        // Queries from one row to another, and keys from `first` on: those before are beyond every window.
        for (from, to, first) in [
            (0, 1, 0),
            (0, 7, 0),
            (1, 2, 0),
            (37, 38, 0),
            (71, 73, 0),
            (149, 150, 0),
            (216, 330, 0),
            (216, 217, KEYS),
            (300, 330, 2 * KEYS),
            (329, 330, 3 * KEYS),
        ] {
            if first > 0 && mask.left.is_none_or(|left| first + left > from) {
                continue;
            }
            let (queries, keys) = (to - from, to - first);
            let (query_offsets, key_offsets) = ([0, queries as i64], [0, keys as i64]);
            let documents = Documents {
                query_rows: queries,
                key_rows: keys,
                query_offsets: &query_offsets[..],
                key_offsets: &key_offsets[..],
            };
            let of = first * narrow..to * narrow;
            let (alone, _) =
                forward(&attention, documents, [&q[from * wide..to * wide], &k[of.clone()], &v[of]]).unwrap();
            let expected = &together[from * wide..to * wide];
            let same = alone.iter().zip(expected).all(|(alone, expected)| alone.to_bits() == expected.to_bits());
            assert!(same, "{attention:?}: rows {from} to {to}, keys from {first}");
        }
    }
}

#[test]
fn very_many_documents_and_very_many_keys() {
    let attention = Attention { query_heads: 1, key_heads: 1, width: 3, scale: 1.0, mask: Mask::ALL };
    let mut random = Random::new(5);
    let rows = 3000;
    let v = normal(&mut random, rows * 3);
    let offsets: Vec<i64> = (0..=rows as i64).collect();
    // One key has all the weight, whatever its score.
    let (o, _) = forward(&attention, Documents::same(rows, &offsets), [&v, &v, &v]).unwrap();
    assert_eq!(o, v);

    let keys = 200_000;
    let documents = Documents { query_rows: 1, key_rows: keys, query_offsets: &[0, 1][..], key_offsets: &[0, 200_000] };
    let (o, log_sums) =
        forward(&attention, documents, [&[1.0; 3], &vec![0.5; keys * 3], &vec![2.0; keys * 3]]).unwrap();
    assert!(o.iter().all(|o| (o - 2.0).abs() < 1e-4), "{o:?}");
    assert!((f64::from(log_sums[0]) - 1.5 - (keys as f64).ln()).abs() < 1e-5);
}

#[test]
fn a_backward_pass_of_more_keys_than_a_chunk_is_the_sum_of_its_parts() {
    // Without a mask, and with the results of a forward pass given, keys of a document take part one by one.
    let attention = Attention { query_heads: 2, key_heads: 1, width: 70, scale: 0.1, mask: Mask::ALL };
    let mut random = Random::new(6);
    let (rows, keys) = (70, 1500);
    let q = normal(&mut random, rows * 140);
    let (k, v) = (normal(&mut random, keys * 70), normal(&mut random, keys * 70));
    let d_o = normal(&mut random, rows * 140);
    let documents =
        Documents { query_rows: rows, key_rows: keys, query_offsets: &[0, 70][..], key_offsets: &[0, 1500] };
    let (o, log_sums) = forward(&attention, documents, [&q, &k, &v]).unwrap();
    let backward = |range: std::ops::Range<usize>| {
        let key_offsets = [0, range.len() as i64];
        let documents = Documents { key_rows: range.len(), key_offsets: &key_offsets[..], ..documents };
        let elements = range.start * 70..range.end * 70;
        let (mut dq, mut dk) = (vec![f32::NAN; q.len()], vec![f32::NAN; elements.len()]);
        let mut dv = dk.clone();
        let slices = Backward {
            q: Heads::dense(&q[..], 2, 70),
            k: Heads::dense(&k[elements.clone()], 1, 70),
            v: Heads::dense(&v[elements], 1, 70),
            o: Heads::dense(&o[..], 2, 70),
            d_o: Heads::dense(&d_o[..], 2, 70),
            log_sums: &log_sums[..],
            dq: Heads::dense(&mut dq[..], 2, 70),
            dk: Heads::dense(&mut dk[..], 1, 70),
            dv: Heads::dense(&mut dv[..], 1, 70),
        };
        attention.backward(&Serial, documents, slices).unwrap();
        (dq, dk, dv)
    };
    let (dq, dk, dv) = backward(0..keys);
    let (first, second) = (backward(0..700), backward(700..keys));
    let near = |whole: &[f32], parts: Vec<f32>| {
        let most = whole.iter().fold(0_f32, |most, value| most.max(value.abs()));
        assert!(most > 0.0 && whole.len() == parts.len());
        for (whole, part) in whole.iter().zip(parts) {
            assert!((whole - part).abs() <= 2e-5 * most, "{whole} {part}");
        }
    };
    near(&dq, first.0.iter().zip(&second.0).map(|(first, second)| first + second).collect());
    near(&dk, [first.1, second.1].concat());
    near(&dv, [first.2, second.2].concat());
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let right = Attention { query_heads: 2, key_heads: 1, width: 3, scale: 1.0, mask: Mask::ALL };
    let documents = Documents::same(2, &[0, 2][..]);
    let (q, k) = ([0.0; 12], [0.0; 6]);
    assert!(forward(&right, documents, [&q, &k, &k]).is_ok());
    for wrong in [
        Attention { width: 0, ..right },
        Attention { width: 257, ..right },
        Attention { key_heads: 0, ..right },
        Attention { query_heads: 0, ..right },
        Attention { query_heads: 3, key_heads: 2, ..right },
    ] {
        let mut o = [0.0; 12];
        let slices = Forward {
            q: Heads::dense(&q[..], 2, 3),
            k: Heads::dense(&k[..], 1, 3),
            v: Heads::dense(&k[..], 1, 3),
            o: Heads::dense(&mut o[..], 2, 3),
            log_sums: None,
        };
        assert!(wrong.forward(&Serial, documents, slices).is_err(), "{wrong:?}");
    }
    assert!(forward(&right, documents, [&q[1..], &k, &k]).is_err());
    assert!(forward(&right, documents, [&q, &k[1..], &k]).is_err());
    assert!(forward(&right, documents, [&q, &k, &k[1..]]).is_err());
    assert!(forward(&right, Documents::same(2, &[0, 3]), [&q, &k, &k]).is_err());
}
