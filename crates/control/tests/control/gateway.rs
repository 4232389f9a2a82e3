//! The settings of an account's gateway and the certificates of its inspection (contract D, 9), as clients see them.

use adit_model::{Change, InspectionMode};

use super::*;

const NIL: &str = "00000000-0000-0000-0000-000000000000";

#[tokio::test]
async fn settings_are_merged_or_replaced_and_the_edges_are_told() {
    let api = Api::new().await;
    let settings = |answer: &Answer| answer.result()["settings"].clone();
    let first = settings(&api.get("gateway/configuration").await);
    assert_eq!(
        (&first["tls_decrypt"]["enabled"], &first["inspection"]["mode"]),
        (&json!(false), &json!("dynamic"))
    );
    let patch =
        json!({ "settings": { "inspection": { "mode": "static" }, "x_non_http_tls": "passthrough" } });
    api.patch("gateway/configuration", patch).await.result();
    let patch = json!({ "settings": { "tls_decrypt": { "enabled": true } } });
    let now = settings(&api.patch("gateway/configuration", patch).await);
    assert_eq!(
        (&now["inspection"]["mode"], &now["x_non_http_tls"]),
        (&json!("static"), &json!("passthrough"))
    );
    let put = json!({ "settings": { "tls_decrypt": { "enabled": true } } });
    let now = settings(&api.put("gateway/configuration", put).await);
    assert_eq!(now["inspection"]["mode"], "dynamic", "what is not said has its default");
    assert_eq!(now["x_non_http_tls"], "passthrough", "and what is adit's own stays");
    assert_eq!(settings(&api.get("gateway/configuration").await), now);
    let state = api.control.store().state().await.unwrap();
    let told = state.changes.iter().find_map(|change| {
        if let Change::GatewaySettingsPut(settings) = change { Some(*settings) } else { None }
    });
    let told = told.unwrap();
    assert!(told.tls_decrypt && told.inspection == InspectionMode::Dynamic);
}

#[tokio::test]
async fn what_is_not_built_is_refused_and_nothing_is_stored() {
    let api = Api::new().await;
    for (key, value) in [
        ("tls_decrypt", json!({ "enabled": "yes" })),
        ("inspection", json!({ "mode": "sometimes" })),
        ("antivirus", json!({ "enabled_download_phase": true })),
        ("fips", json!({ "tls": true })),
        ("browser_isolation", json!({ "url_browser_isolation_enabled": true })),
        ("certificate", json!({ "id": "3a5b3b1e-0f5c-4c3e-8a57-5d9a0a9a3c11" })),
        ("x_egress_enabled", json!(true)),
        ("x_reevaluate_on_change", json!("yes")),
        ("max_ttl_secs", json!(0)),
    ] {
        let body = json!({ "settings": { key: value } });
        let answer = api.patch("gateway/configuration", body).await;
        assert_eq!(answer.status, 400, "{key}: {}", answer.body);
        assert_eq!(answer.body["errors"][0]["source"]["pointer"], format!("/settings/{key}"));
    }
    assert_eq!(api.put("gateway/configuration", json!({ "settings": [] })).await.status, 400);
    assert_eq!(api.get("gateway/configuration").await.result()["updated_at"], Value::Null);
}

#[tokio::test]
async fn an_account_has_one_authority_of_its_own_to_trust() {
    let api = Api::new().await;
    let listed = api.get("gateway/certificates").await;
    let [certificate] = listed.result().as_array().unwrap().as_slice() else { panic!("{}", listed.body) };
    assert_eq!((&certificate["id"], &certificate["in_use"]), (&json!(NIL), &json!(false)));
    let pem = certificate["certificate"].as_str().unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
    assert!(!listed.body.to_string().contains("PRIVATE KEY"));
    api.patch("gateway/configuration", json!({ "settings": { "tls_decrypt": { "enabled": true } } }))
        .await
        .result();
    let one = api.get(&format!("gateway/certificates/{NIL}")).await;
    assert_eq!((&one.result()["certificate"], &one.result()["in_use"]), (&json!(pem), &json!(true)));
    assert_eq!(api.get("gateway/certificates/3a5b3b1e-0f5c-4c3e-8a57-5d9a0a9a3c11").await.status, 404);
}
