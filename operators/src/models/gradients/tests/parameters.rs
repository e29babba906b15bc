//! Every tensor of a checkpoint has a gradient, once, and in its own shape.

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use super::{Fixture, Target, load, models, packed, summed, texts};

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
                let without =
                    ["k_lin.bias", "key.bias", "key_proj.bias"].iter().any(|end| parameter.name().ends_with(end));
                let some = gradient.iter().any(|&value| value != 0.0);
                assert!(some || without, "{name} {}: nothing but zeros", parameter.name());
                (parameter.name().to_owned(), parameter.shape().to_vec())
            })
            .collect();
        assert_eq!(got, expected, "{name}");
        println!("{name}: {} parameters", got.len());
    }
}

#[test]
fn what_no_layer_reads_is_no_parameter() {
    let folder = Fixture::read().classifier("v2-xlarge");
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["num_hidden_layers"] = 0.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let left = tensors.tensors().into_iter().filter(|(name, _)| !name.contains("encoder.layer."));
    let bytes = safetensors::serialize(left, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();

    let model = load(folder.path());
    let batch = packed(&texts(folder.path()));
    let (_, gradients) = summed(&model, &batch, &Target::of(&model, &batch));
    let names: Vec<&str> = gradients.iter().map(|(parameter, _)| parameter.name()).collect();
    assert_eq!(names.len(), model.parameters().len());
    assert!(names.iter().all(|name| !name.contains("encoder.")), "{names:?}");
    assert!(names.contains(&"deberta.embeddings.word_embeddings.weight"), "{names:?}");
}
