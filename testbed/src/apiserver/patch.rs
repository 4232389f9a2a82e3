//! JSON merge patch (RFC 7396) and as much of Kubernetes' strategic merge patch as the testbed's kinds need: lists of
//! objects with a `name` are merged by it, directives for order are left out, `$patch: delete` removes.

use serde_json::Value;

/// How lists are patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lists {
    /// Replaced whole (RFC 7396).
    Replace,
    /// Merged by `name` where their elements have one.
    MergeByName,
}

/// Applies `patch` to `target`.
pub(super) fn merge(target: &mut Value, patch: &Value, lists: Lists) {
    match patch {
        Value::Object(patch) => {
            if !target.is_object() {
                *target = Value::Object(serde_json::Map::new());
            }
            let Some(fields) = target.as_object_mut() else { return };
            for (key, value) in
                patch.iter().filter(|(key, _)| lists == Lists::Replace || !key.starts_with('$'))
            {
                if value.is_null() {
                    fields.remove(key);
                } else {
                    merge(fields.entry(key.clone()).or_insert(Value::Null), value, lists);
                }
            }
        }
        Value::Array(elements)
            if lists == Lists::MergeByName && elements.iter().all(|e| e["name"].is_string()) =>
        {
            merge_by_name(target, elements);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            *target = patch.clone();
        }
    }
}

fn merge_by_name(target: &mut Value, elements: &[Value]) {
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Some(list) = target.as_array_mut() else { return };
    for element in elements {
        let position = list.iter().position(|old| old["name"] == element["name"]);
        if element["$patch"] == "delete" {
            position.map(|position| list.remove(position));
            continue;
        }
        let position = position.unwrap_or_else(|| {
            list.push(Value::Null);
            list.len() - 1
        });
        merge(&mut list[position], element, Lists::MergeByName);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(lists: Lists, target: &Value, patch: &Value, want: &Value) {
        let mut got = target.clone();
        merge(&mut got, patch, lists);
        assert_eq!(&got, want, "{lists:?}: {target} patched with {patch}");
    }

    #[test]
    fn rfc_7396_examples() {
        check(Lists::Replace, &json!({"a": "b"}), &json!({"a": "c"}), &json!({"a": "c"}));
        check(Lists::Replace, &json!({"a": "b", "b": "c"}), &json!({"a": null}), &json!({"b": "c"}));
        check(Lists::Replace, &json!({"a": [{"b": "c"}]}), &json!({"a": [1]}), &json!({"a": [1]}));
        check(
            Lists::Replace,
            &json!([1, 2]),
            &json!({"a": {"bb": {"ccc": null}}}),
            &json!({"a": {"bb": {}}}),
        );
    }

    #[test]
    fn named_elements_are_merged_and_directives_left_out() {
        check(
            Lists::MergeByName,
            &json!({"c": [{"name": "a", "image": "1", "tty": true}, {"name": "b"}]}),
            &json!({
                "$setElementOrder/c": [{"name": "a"}],
                "c": [{"name": "a", "image": "2"}, {"name": "b", "$patch": "delete"}, {"name": "d"}],
            }),
            &json!({"c": [{"name": "a", "image": "2", "tty": true}, {"name": "d"}]}),
        );
    }
}
