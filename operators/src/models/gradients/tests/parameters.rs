//! Every tensor of a checkpoint has a gradient, once, and in its own shape.

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use super::{Target, load, models, packed, summed, texts};

#[test]
fn every_tensor_of_a_checkpoint_has_a_gradient() {
    for (name, folder) in models() {
        let model = load(&folder);
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut expected: BTreeMap<String, Vec<usize>> =
            tensors.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect();
        let declared: BTreeMap<String, Vec<usize>> =
            model.parameters().map(|parameter| (parameter.name().into(), parameter.shape().to_vec())).collect();
        assert_eq!(declared.len(), model.parameters().len(), "{name}: a name twice");
        assert!(model.parameters().enumerate().all(|(index, parameter)| parameter.index() == index));
        // A head that is the embeddings is one tensor.
        let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        if config["tie_word_embeddings"] == true {
            expected.remove("lm_head.weight");
        }
        assert_eq!(declared, expected, "{name}");

        let batch = packed(&texts(&folder));
        let (_, gradients) = summed(&model, &batch, &Target::of(&model, &batch));
        let got: BTreeMap<String, Vec<usize>> = gradients
            .iter()
            .map(|(parameter, gradient)| {
                assert_eq!(gradient.len(), parameter.elements(), "{name} {}", parameter.name());
                assert!(gradient.iter().all(|value| value.is_finite()), "{name} {}", parameter.name());
                // A bias of keys adds the same to all scores of a query, unless keys are turned afterwards.
                let without = ["k_lin.bias", "key.bias"].iter().any(|end| parameter.name().ends_with(end));
                let some = gradient.iter().any(|&value| value != 0.0);
                assert!(some || without, "{name} {}: nothing but zeros", parameter.name());
                (parameter.name().to_owned(), parameter.shape().to_vec())
            })
            .collect();
        assert_eq!(got, expected, "{name}");
        println!("{name}: {} parameters", got.len());
    }
}
