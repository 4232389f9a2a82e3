//! Whether a value is what a JSON Schema says: as much of JSON Schema as the API's document uses, and a panic for more.

use serde_json::Value;

/// Keys that say nothing about a value.
const SILENT: [&str; 4] = ["description", "contentEncoding", "propertyNames", "default"];

/// What is wrong with a value, and where. References are looked up in `document`.
pub(super) fn flaws(schema: &Value, value: &Value, document: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (key, wanted) in schema.as_object().unwrap_or_else(|| panic!("{schema} is no schema")) {
        let wrong = match key.as_str() {
            "$ref" => {
                let pointer = wanted.as_str().unwrap().trim_start_matches('#');
                found.extend(flaws(document.pointer(pointer).unwrap(), value, document, at));
                false
            }
            "type" => !types(wanted).contains(&kind(value)),
            "const" => value != wanted,
            "enum" => !wanted.as_array().unwrap().contains(value),
            "anyOf" => {
                let fits = |schema: &Value| flaws(schema, value, document, at).is_empty();
                !wanted.as_array().unwrap().iter().any(fits)
            }
            "format" => value.as_str().is_some_and(|text| !has_format(text, wanted.as_str().unwrap())),
            "pattern" => value.as_str().is_some_and(|text| !has_pattern(text, wanted.as_str().unwrap())),
            "minimum" => value.as_u64().is_some_and(|number| number < wanted.as_u64().unwrap()),
            "minItems" => {
                value.as_array().is_some_and(|items| (items.len() as u64) < wanted.as_u64().unwrap())
            }
            "maxItems" => value.as_array().is_some_and(|items| items.len() as u64 > wanted.as_u64().unwrap()),
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(flaws(wanted, item, document, &format!("{at}/{index}")));
                }
                false
            }
            "required" => {
                let missing = |key: &Value| value.get(key.as_str().unwrap()).is_none();
                value.is_object() && wanted.as_array().unwrap().iter().any(missing)
            }
            "properties" => {
                for (key, schema) in wanted.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        found.extend(flaws(schema, value, document, &format!("{at}/{key}")));
                    }
                }
                false
            }
            "additionalProperties" => {
                let known = |key: &String| schema["properties"].get(key).is_some();
                let others = value.as_object().into_iter().flatten().filter(|(key, _)| !known(key));
                for (key, value) in others {
                    if wanted.is_object() {
                        found.extend(flaws(wanted, value, document, &format!("{at}/{key}")));
                    } else {
                        found.push(format!("{at}/{key} is not in the document"));
                    }
                }
                false
            }
            silent => {
                assert!(SILENT.contains(&silent), "{silent} is not understood here");
                false
            }
        };
        if wrong {
            found.push(format!("{at}: {value} is not {key} {wanted}"));
        }
    }
    found
}

fn types(wanted: &Value) -> Vec<&str> {
    wanted.as_array().map_or_else(
        || wanted.as_str().into_iter().collect(),
        |names| names.iter().filter_map(Value::as_str).collect(),
    )
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_format(text: &str, format: &str) -> bool {
    match format {
        "uuid" => text.len() == 36 && uuid::Uuid::try_parse(text).is_ok(),
        "date-time" => text.ends_with('Z') && text.len() >= 20 && text.as_bytes()[10] == b'T',
        other => panic!("{other} is not understood here"),
    }
}

fn has_pattern(text: &str, pattern: &str) -> bool {
    match pattern {
        "^[0-9a-f]{32}$" => {
            text.len() == 32 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        }
        other => panic!("{other} is not understood here"),
    }
}

/// Compares an answer with what the API's document says of the operation, if there is one for the path.
#[track_caller]
pub(super) fn check(document: &Value, method: &str, path: &str, answer: &super::Answer) {
    let path = path.split('?').next().unwrap().trim_end_matches('/');
    let Some(path) = path.strip_prefix("/client/v4/") else { return };
    let segments: Vec<&str> = path.split('/').collect();
    let method = method.to_lowercase();
    let rows = document["paths"].as_object().unwrap().iter().filter_map(|(pattern, methods)| {
        let parts: Vec<&str> = pattern.trim_start_matches('/').split('/').collect();
        let parameters = parts.iter().filter(|part| part.starts_with('{')).count();
        let fits = parts.len() == segments.len()
            && parts.iter().zip(&segments).all(|(part, segment)| part.starts_with('{') || part == segment);
        fits.then_some(())?;
        Some((parameters, methods.get(&method)?))
    });
    let failure = || &document["components"]["schemas"]["Failure"];
    let schema = match rows.min_by_key(|(parameters, _)| *parameters) {
        Some((_, row)) => {
            let response = &row["responses"][answer.status.as_str()];
            assert!(response.is_object(), "{method} {path}: {} is not in the document", answer.status);
            &response["content"]["application/json"]["schema"]
        }
        None => failure(),
    };
    let flaws = flaws(schema, &answer.body, document, "");
    assert!(flaws.is_empty(), "{method} {path} answers what is not in the document: {flaws:#?}");
}

#[test]
fn what_is_not_as_the_schema_says_is_found() {
    use serde_json::json;
    let schema = json!({
        "type": "object",
        "properties": {
            "id": { "type": "string", "format": "uuid" },
            "many": { "type": "array", "items": { "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "null" }] } },
        },
        "required": ["id"],
        "additionalProperties": false,
    });
    let found = |value: Value| flaws(&schema, &value, &Value::Null, "").len();
    let id = "01302951-49f9-47c9-a400-0297e60b6a10";
    assert_eq!(found(json!({ "id": id, "many": [1, null] })), 0);
    for wrong in [
        json!([]),
        json!({}),
        json!({ "id": "x" }),
        json!({ "id": id, "many": [0] }),
        json!({ "id": id, "many": [1.5] }),
        json!({ "id": id, "other": 1 }),
    ] {
        assert!(found(wrong.clone()) > 0, "{wrong}");
    }
}
