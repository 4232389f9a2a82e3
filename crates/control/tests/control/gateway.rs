//! The settings of an account's gateway and the certificates of its inspection (contract D, 9), as clients see them.

use adit_model::{Change, InspectionMode, OwnPage};

use super::http_rules::everything;
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

/// Makes an authority as somebody who has one does.
pub(super) fn own_authority() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

async fn chosen(api: &Api, body: Value) -> Answer {
    api.patch("gateway/configuration", json!({ "settings": body })).await
}

#[tokio::test]
async fn an_authority_is_made_activated_chosen_and_only_then_the_one_before_goes() {
    let api = Api::new().await;
    let made = api.post("gateway/certificates", json!({ "validity_period_days": 30 })).await;
    let first = made.text("/result/id");
    assert_eq!(made.result()["type"], "gateway_managed");
    assert_eq!(
        (&made.result()["binding_status"], &made.result()["in_use"]),
        (&json!("inactive"), &json!(false))
    );
    let choose = json!({ "certificate": { "id": first }, "tls_decrypt": { "enabled": true } });
    chosen(&api, choose.clone()).await.refused(400, 2082, "not available");
    let path = |id: &str, rest: &str| format!("gateway/certificates/{id}{rest}");
    let active = api.post(&path(&first, "/activate"), json!({})).await;
    assert_eq!(active.result()["binding_status"], "available");
    let now = chosen(&api, choose).await;
    let settings = &now.result()["settings"];
    assert_eq!(settings["certificate"]["id"], first);
    let twin = &settings["custom_certificate"];
    assert_eq!((&twin["enabled"], &twin["id"]), (&json!(true), &json!(first)));
    assert_eq!(api.get(&path(&first, "")).await.result()["in_use"], true);
    for refused in
        [api.delete(&path(&first, "")).await, api.post(&path(&first, "/deactivate"), json!({})).await]
    {
        refused.refused(409, 2101, "in use");
    }
    // The twin chooses too; where both are there, the one that changes counts.
    let second = api.post("gateway/certificates", json!({})).await.text("/result/id");
    api.post(&path(&second, "/activate"), json!({})).await.result();
    let both = json!({
        "certificate": { "id": first }, "custom_certificate": { "enabled": true, "id": second },
    });
    assert_eq!(chosen(&api, both.clone()).await.result()["settings"]["certificate"]["id"], second);
    assert_eq!(chosen(&api, both).await.result()["settings"]["certificate"]["id"], first);
    let neither = json!({
        "certificate": { "id": NIL }, "custom_certificate": { "enabled": true, "id": second },
    });
    chosen(&api, neither).await.refused(400, 2082, "custom_certificate");
    for wrong in
        [json!("x"), json!({ "id": second }), json!({ "enabled": true }), json!({ "enabled": true, "id": 7 })]
    {
        chosen(&api, json!({ "custom_certificate": wrong })).await.refused(400, 2082, "custom_certificate");
    }
    let twin = json!({ "custom_certificate": { "enabled": true, "id": second } });
    assert_eq!(chosen(&api, twin).await.result()["settings"]["certificate"]["id"], second);
    let state = api.control.store().state().await.unwrap();
    let told = state.changes.iter().find_map(|change| {
        if let Change::GatewaySettingsPut(settings) = change { Some(settings.certificate) } else { None }
    });
    assert_eq!(told.unwrap().to_string(), second);
    assert_eq!(
        api.post(&path(&first, "/deactivate"), json!({})).await.result()["binding_status"],
        "inactive"
    );
    assert_eq!(api.delete(&path(&first, "")).await.result()["id"], first);
    api.get(&path(&first, "")).await.refused(404, 2100, "not found");
    api.delete(&path(NIL, "")).await.refused(409, 2101, "built-in");
    let back = chosen(&api, json!({ "custom_certificate": { "enabled": false } })).await;
    assert_eq!(back.result()["settings"]["certificate"]["id"], NIL);
    assert_eq!(api.get("gateway/certificates").await.column("id"), [NIL, second.as_str()]);
}

#[tokio::test]
async fn an_authority_of_ones_own_is_taken_and_its_key_is_never_shown() {
    let api = Api::new().await;
    let (pem, key) = own_authority();
    let made = api.post("gateway/certificates", json!({ "certificate": pem, "private_key": key })).await;
    let shown = made.result();
    assert_eq!((&shown["type"], &shown["issuer_org"]), (&json!("custom"), &json!("Example")));
    assert_eq!(shown["fingerprint"].as_str().unwrap().len(), 64);
    assert!(!made.body.to_string().contains("PRIVATE"), "{}", made.body);
    let (_, other) = own_authority();
    for (body, pointer) in [
        (json!({ "certificate": pem, "private_key": other }), "/private_key"),
        (json!({ "certificate": pem }), "/private_key"),
        (json!({ "private_key": key }), "/certificate"),
        (json!({ "certificate": key, "private_key": key }), "/certificate"),
        (
            json!({ "certificate": pem, "private_key": key, "validity_period_days": 9 }),
            "/validity_period_days",
        ),
        (json!({ "validity_period_days": 0 }), "/validity_period_days"),
        (json!({ "validity_period_days": 10951 }), "/validity_period_days"),
    ] {
        let refused = api.post("gateway/certificates", body).await;
        refused.refused(400, 2102, "");
        assert_eq!(refused.body["errors"][0]["source"]["pointer"], pointer, "{}", refused.body);
        assert!(!refused.body.to_string().contains("PRIVATE"), "{}", refused.body);
    }
    let records = api.control.store().audit_list(api.control.account(), &everything()).await.unwrap();
    assert!(records.iter().any(|record| record.action == "inspection_certificate.create"));
    assert!(!format!("{records:?}").contains("PRIVATE"), "no record has the key");
}

#[tokio::test]
async fn origins_are_trusted_by_authorities_that_are_limited_to_networks_and_names() {
    let api = Api::new().await;
    let (pem, key) = own_authority();
    let network = api.post("teamnet/virtual_networks", json!({ "name": "lab" })).await.text("/result/id");
    let body = json!({
        "name": "lab CA", "certificate": format!("{pem}{pem}"), "virtual_networks": [network],
        "host_suffixes": ["*.Corp.Example.", "internal"],
    });
    let made = api.post("x/gateway/origin_roots", body.clone()).await;
    let id = made.text("/result/id");
    assert_eq!(made.result()["host_suffixes"], json!(["corp.example", "internal"]));
    assert_eq!(made.result()["fingerprints"].as_array().unwrap().len(), 2);
    api.post("x/gateway/origin_roots", body.clone()).await.refused(409, 2101, "name");
    let told = async || {
        let state = api.control.store().state().await.unwrap();
        let of = |change: &Change| matches!(change, Change::OriginRootPut(_));
        state.changes.into_iter().filter(of).count()
    };
    assert_eq!(told().await, 1);
    for (key, value, pointer) in [
        ("certificate", json!(key), "/certificate"),
        ("certificate", json!(""), "/certificate"),
        ("certificate", json!(pem.repeat(17)), "/certificate"),
        ("host_suffixes", json!(["corp.example", "not a name"]), "/host_suffixes/1"),
        ("host_suffixes", json!(["10.0.0.1"]), "/host_suffixes/0"),
        ("virtual_networks", json!(["3a5b3b1e-0f5c-4c3e-8a57-5d9a0a9a3c11"]), "/virtual_networks"),
        ("virtual_networks", json!(["lab"]), "/virtual_networks/0"),
    ] {
        let mut wrong = body.clone();
        wrong["name"] = json!("another");
        wrong[key] = value;
        let refused = api.post("x/gateway/origin_roots", wrong).await;
        refused.refused(400, 2102, "");
        assert_eq!(refused.body["errors"][0]["source"]["pointer"], pointer, "{}", refused.body);
    }
    let path = format!("x/gateway/origin_roots/{id}");
    let open = json!({ "name": "lab CA", "certificate": pem });
    assert_eq!(api.put(&path, open).await.result()["virtual_networks"], json!([]));
    assert_eq!(api.get("x/gateway/origin_roots").await.column("id"), [id]);
    api.delete(&path).await.result();
    api.get(&path).await.refused(404, 2100, "not found");
    assert_eq!(told().await, 0);
}

#[tokio::test]
async fn a_block_page_in_ones_own_words_is_kept_and_the_edges_are_told() {
    let api = Api::new().await;
    let page = |body: Value| json!({ "block_page": body });
    let own = json!({
        "enabled": true, "mode": "customized_block_page", "name": "Example", "header_text": "No.", "footer_text": null,
        "background_color": "#0b5fff", "mailto_address": "it@example.com", "suppress_footer": true, "read_only": false,
    });
    let kept = chosen(&api, page(own.clone())).await;
    assert_eq!(kept.result()["settings"]["block_page"], own);
    let told = async || {
        let state = api.control.store().state().await.unwrap();
        state
            .changes
            .into_iter()
            .find_map(|change| if let Change::BlockPagePut(put) = change { put.page } else { None })
    };
    assert!(matches!(told().await, Some(OwnPage::CustomizedBlockPage(page)) if page.header_text == "No."));
    let elsewhere = json!({
        "enabled": true, "mode": "redirect_uri", "target_uri": "https://help.example.com", "include_context": true,
    });
    chosen(&api, page(elsewhere)).await.result();
    assert!(matches!(told().await, Some(OwnPage::RedirectUri(to)) if to.include_context == Some(true)));
    for wrong in [
        json!({ "enabled": "yes" }),
        json!({ "enabled": true, "mode": "redirect_uri" }),
        json!({ "enabled": true, "mode": "redirect_uri", "target_uri": "javascript:alert(1)" }),
        json!({ "enabled": true, "mode": "another" }),
        json!({ "enabled": true, "background_color": "red;}" }),
        json!({ "enabled": true, "mailto_address": "nobody" }),
        json!({ "enabled": true, "logo_path": "/logo.png" }),
        json!({ "enabled": true, "header_text": "x".repeat(2049) }),
        json!({ "enabled": true, "name": 7 }),
        json!("page"),
    ] {
        let refused = chosen(&api, page(wrong)).await;
        refused.refused(400, 2082, "block_page");
        assert_eq!(refused.body["errors"][0]["source"]["pointer"], "/settings/block_page");
    }
    chosen(&api, json!({ "block_page": null })).await.result();
    assert_eq!(told().await, None);
}
