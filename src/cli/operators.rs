//! `gristmill operators`.

use gristmill::pipelines::{Environment, PipelineError};
use serde_json::Value;

use super::arguments::OperatorsArguments;
use super::table::table;
use super::{DONE, USAGE, print_line};

pub(super) fn operators(arguments: OperatorsArguments, environment: &Environment) -> Result<u8, PipelineError> {
    let Some(name) = arguments.kind else {
        let kinds = environment.registry.kinds().filter(|kind| kind.is_step());
        let rows = kinds.map(|kind| vec![kind.name().to_owned(), kind.summary().to_owned()]);
        print_line(&table(&["operator", "does"], rows.collect(), &[]).to_string())?;
        print_line("'gristmill operators NAME' shows an operator's configuration")?;
        return Ok(DONE);
    };
    let kind = match environment.registry.kind(&name) {
        Ok(kind) => kind,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(USAGE);
        }
    };
    print_line(&format!("{}: {}\n\n  - {}\n", kind.name(), kind.summary(), kind.example()))?;
    if !kind.is_step() {
        print_line(
            "it is no step of a pipeline, since what it gives depends on where a split ends; sinks and what steps learn make use of it\n",
        )?;
    }
    let schema = kind.config_schema();
    let required: Vec<&str> =
        schema["required"].as_array().map(|keys| keys.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (key, about) in schema["properties"].as_object().into_iter().flatten() {
        rows.push(row(key, about, &required, &schema["$defs"]));
        rows.extend(inner_rows(key, about, &schema["$defs"]));
    }
    if rows.is_empty() {
        print_line(schema["description"].as_str().unwrap_or("no configuration"))?;
    } else {
        print_line(&table(&["key", "default", "meaning"], rows, &[]).to_string())?;
    }
    if !kind.is_step() {
        return Ok(DONE);
    }
    print_line(
        "every step also takes 'name', and most take 'when', a SQL condition: only rows for which it holds are judged",
    )?;
    Ok(DONE)
}

/// The keys inside of a key that takes a map, by dotted path.
fn inner_rows(key: &str, about: &Value, definitions: &Value) -> Vec<Vec<String>> {
    let alternatives = ["oneOf", "anyOf"].into_iter().filter_map(|word| about[word].as_array()).flatten();
    let references = std::iter::once(about).chain(alternatives).filter_map(|one| one["$ref"].as_str());
    let Some(map) = references
        .filter_map(|reference| reference.strip_prefix("#/$defs/"))
        .map(|name| &definitions[name])
        .find(|definition| definition["properties"].is_object())
    else {
        return Vec::new();
    };
    let required: Vec<&str> = map["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let keys = map["properties"].as_object().into_iter().flatten();
    keys.map(|(inner, about)| {
        let mut row = row(inner, about, &required, definitions);
        row[0] = format!("{key}.{inner}");
        row
    })
    .collect()
}

fn row(key: &str, about: &Value, required: &[&str], definitions: &Value) -> Vec<String> {
    let default = match about.get("default") {
        Some(Value::Null) | None if required.contains(&key) => "required".to_owned(),
        Some(Value::Null) | None => String::new(),
        Some(value) => value.to_string(),
    };
    let mut meaning = about["description"].as_str().unwrap_or_default().replace('\n', " ");
    let allowed = allowed(about, definitions);
    if !allowed.is_empty() {
        meaning = format!("{} Allowed: {}.", meaning.trim_end(), allowed.join(", "));
    }
    vec![key.to_owned(), default, meaning]
}

/// The names that a key takes, where it takes nothing else.
fn allowed<'a>(about: &'a Value, definitions: &'a Value) -> Vec<&'a str> {
    if let Some(name) = about["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/")) {
        return allowed(&definitions[name], definitions);
    }
    let names = about["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let alternatives = ["oneOf", "anyOf"].into_iter().filter_map(|key| about[key].as_array()).flatten();
    names
        .chain(alternatives.flat_map(|one| one["const"].as_str().into_iter().chain(allowed(one, definitions))))
        .collect()
}
