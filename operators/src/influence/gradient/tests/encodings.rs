//! What each encoding keeps of the numbers.

use half::{bf16, f16};

use super::*;

const TEXTS: [Option<&str>; 3] = [Some("one text of a few words"), None, Some("another one, somewhat longer")];

#[test]
fn numbers_come_back_as_each_encoding_keeps_them() {
    let batch = table(&TEXTS);
    let exact = run(json!({}), &batch);
    let description = description(&exact);
    let width = description.width();
    let expected = values(&exact);
    let modules = &description.projection.modules;
    for (output, tolerance) in [("f16", 4e-4), ("bf16", 3e-3), ("int8", 2e-2), ("signs", 0.7)] {
        let got = run(json!({"output": output}), &batch);
        let decoded = values(&got);
        assert!(got["gradient"].is_null(1), "{output}");
        for row in [0, 2] {
            let [got, expected] = [&decoded, &expected].map(|values| &values[row * width..(row + 1) * width]);
            let off = off(got, expected);
            println!("{output}: off by {off:e}");
            assert!(off < tolerance, "{output} row {row}: {off:e}");
            for (k, (&got, &expected)) in got.iter().zip(expected).enumerate() {
                let module = modules.iter().rev().find(|module| module.offset <= k).unwrap();
                let part = |values: &[f32]| values[module.offset..module.offset + module.p * module.q].to_vec();
                let all = part(&super::values(&exact)[row * width..(row + 1) * width]);
                let wanted = match output {
                    "f16" => f16::from_f32(expected).to_f32(),
                    "bf16" => bf16::from_f32(expected).to_f32(),
                    "int8" => {
                        let scale = all.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0;
                        (expected / scale).round() * scale
                    }
                    _ => {
                        let mean = all.iter().map(|&value| f64::from(value.abs())).sum::<f64>() / all.len() as f64;
                        if expected >= 0.0 { mean as f32 } else { -mean as f32 }
                    }
                };
                assert_eq!(got, wanted, "{output} row {row} number {k}");
            }
        }
        // A slice of the column is the same rows.
        let sliced = super::description(&got).decode(&got["gradient"].slice(2, 1)).unwrap();
        assert_eq!(sliced.values, decoded[2 * width..], "{output}");
        assert_eq!(sliced.valid.map_or(0, |valid| valid.null_count()), 0);
    }
}

#[test]
fn descriptions_say_what_a_column_is_and_what_differs() {
    let batch = table(&TEXTS);
    let of = |config: Value| description(&run(config, &batch));
    let one = of(json!({}));
    let first = &one.projection.modules[0];
    assert_eq!((first.offset, first.p, first.q, one.width()), (0, 8, 8, 64 * one.projection.modules.len()));
    assert_eq!(one.model.hash.len(), 64);
    assert_eq!(one.expect_same(&of(json!({"output": "int8", "norms": "total"}))), Ok(()));
    for (config, expected) in [
        (json!({"precision": "bf16"}), "the model differs: precision is \"f32\", and \"bf16\" is expected"),
        (json!({"seed": 1}), "the projection differs: seed is 0, and 1 is expected"),
        (json!({"dimension": 4}), "the projection differs: dimension is 8, and 4 is expected"),
        (
            json!({"signs": "bergson-2"}),
            "the projection differs: signs is \"gristmill\", and \"bergson-2\" is expected",
        ),
        (json!({"modules": {"exclude": ["*.1.*"]}}), "the projection differs: "),
        (json!({"reduction": "sum"}), "the loss differs: reduction is \"mean\", and \"sum\" is expected"),
        (
            json!({"span": {"start": 2}}),
            "the loss differs: targets is \"text\", and \"span from 2 to the end\" is expected",
        ),
    ] {
        let error = one.expect_same(&of(config)).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    assert_eq!(one.expect_same_space(&of(json!({"reduction": "sum"}))), Ok(()));

    // Through the metadata of a field and back, and fields that are none.
    let field = one.field("x").unwrap();
    assert_eq!(SketchDescription::of(&field).unwrap(), one);
    let plain = field.clone().with_metadata(Default::default());
    assert!(SketchDescription::of(&plain).unwrap_err().to_string().contains("none that `gradient` made"));
    let mut other = one.clone();
    other.projection.modules.pop();
    let text = serde_json::to_string(&other).unwrap();
    let shorter = field.clone().with_metadata([(super::super::METADATA_KEY.to_owned(), text)].into());
    assert!(SketchDescription::of(&shorter).unwrap_err().to_string().contains("expected FixedSizeList"));
    other.format = 2;
    let text = serde_json::to_string(&other).unwrap();
    let newer = field.with_metadata([(super::super::METADATA_KEY.to_owned(), text)].into());
    assert!(SketchDescription::of(&newer).unwrap_err().to_string().contains("this program reads format 1"));
}
