//! Enrolment, and devices and registrations in the API (contract D, 11).

use super::*;
use adit_model::{Change, PresentedKey};

impl Api {
    /// A service token: its id and secret as headers carry them.
    async fn service_token(&self, extra: Value) -> (String, String) {
        let mut body = json!({ "name": "ci" });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let made = self.post("access/service_tokens", body).await;
        (made.text("/result/client_id"), made.text("/result/client_secret"))
    }

    pub(crate) async fn enroll(
        &self,
        token: Option<&(String, String)>,
        key: Option<&[u8]>,
        body: &str,
    ) -> Answer {
        let mut request = Request::post("/adit/device/enroll");
        if let Some((id, secret)) = token {
            request = request.header("Cf-Access-Client-Id", id).header("Cf-Access-Client-Secret", secret);
        }
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(SocketAddr::from(([192, 0, 2, 9], 1)));
        if let Some(key) = key {
            request.extensions_mut().insert(PresentedKey::new(key.to_vec()));
        }
        answer(adit_control::device::router(self.control.clone()).oneshot(request).await.unwrap()).await
    }
}

pub(crate) const LAPTOP: &str =
    r#"{"name":"laptop","device_type":"linux","os_version":"13","client_version":"0.1.0"}"#;

#[tokio::test]
async fn a_service_token_enrols_a_device_and_the_edges_are_told() {
    let api = Api::new().await;
    let token = api.service_token(json!({})).await;
    let (_, mut feed) = api.control.subscribe().await.unwrap();
    let enrolled = api.enroll(Some(&token), Some(b"key"), LAPTOP).await;
    assert_eq!(enrolled.status, StatusCode::OK, "{}", enrolled.body);
    assert_eq!(enrolled.body["user"], format!("non_identity@{}", api.control.account()));
    let told = feed.next().await.unwrap();
    let [Change::RegistrationPut(put)] = told.changes.as_slice() else { panic!("{told:?}") };
    assert_eq!(put.id.to_string(), enrolled.text("/registration_id"));
    assert_eq!(put.key, PresentedKey::new(b"key".to_vec()).key);
    assert!(!put.revoked);
    insta::assert_snapshot!("registrations", api.get("devices/registrations").await.plain());
    insta::assert_snapshot!("physical_devices", api.get("devices/physical-devices").await.plain());
    insta::assert_snapshot!("legacy_devices", api.get("devices").await.plain());
}

#[tokio::test]
async fn who_may_not_enrol_is_told_why() {
    let api = Api::new().await;
    let good = api.service_token(json!({})).await;
    let wrong = (good.0.clone(), "0".repeat(64));
    let unknown = ("x.access".to_owned(), good.1.clone());
    let off = api.service_token(json!({ "enabled": false })).await;
    let expired = api.service_token(json!({ "duration": "1ns" })).await;
    for (token, why) in [
        (None, "Cf-Access-Client-Id"),
        (Some(&wrong), "id or secret is wrong"),
        (Some(&unknown), "id or secret is wrong"),
        (Some(&off), "switched off"),
        (Some(&expired), "expired"),
    ] {
        api.enroll(token, Some(b"key"), LAPTOP).await.refused(401, 10000, why);
    }
    api.enroll(Some(&good), None, LAPTOP).await.refused(400, 1102, "device key");
    api.enroll(Some(&good), Some(b"key"), "{").await.refused(400, 6007, "Malformed JSON");
    api.enroll(Some(&good), Some(b"key"), "{}").await.refused(400, 1102, "name: expected");
    let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(20_000));
    api.enroll(Some(&good), Some(b"key"), &long).await.refused(413, 6008, "larger");
    assert_eq!(api.get("devices/registrations").await.result(), &json!([]));
}

#[tokio::test]
async fn a_rotated_secret_is_good_until_it_is_said() {
    let api = Api::new().await;
    let old = api.service_token(json!({})).await;
    let id = api.get("access/service_tokens").await.text("/result/0/id");
    let rotate = format!("access/service_tokens/{id}/rotate");
    let until = json!({ "previous_client_secret_expires_at": "2999-01-01T00:00:00Z" });
    let new = (old.0.clone(), api.post(&rotate, until).await.text("/result/client_secret"));
    api.enroll(Some(&old), Some(b"one"), LAPTOP).await;
    assert_eq!(api.enroll(Some(&old), Some(b"two"), LAPTOP).await.status, StatusCode::OK);
    assert_eq!(api.enroll(Some(&new), Some(b"three"), LAPTOP).await.status, StatusCode::OK);
    api.post(&rotate, json!({})).await.result();
    api.enroll(Some(&new), Some(b"four"), LAPTOP).await.refused(401, 10000, "wrong");
}

#[tokio::test]
async fn a_key_enrols_once_and_a_revoked_one_not_again() {
    let api = Api::new().await;
    let token = api.service_token(json!({})).await;
    let id = api.enroll(Some(&token), Some(b"key"), LAPTOP).await.text("/registration_id");
    api.enroll(Some(&token), Some(b"key"), LAPTOP).await.refused(409, 1101, "registered already");
    let (_, mut feed) = api.control.subscribe().await.unwrap();
    let revoked = api.post(&format!("devices/registrations/revoke?id={id}"), json!({})).await;
    assert_eq!(revoked.result(), &Value::Null);
    let told = feed.next().await.unwrap();
    assert!(matches!(told.changes.as_slice(), [Change::RegistrationPut(put)] if put.revoked), "{told:?}");
    api.enroll(Some(&token), Some(b"key"), LAPTOP).await.refused(403, 1101, "revoked");
    assert_ne!(api.get(&format!("devices/registrations/{id}")).await.result()["revoked_at"], Value::Null);
    assert_eq!(api.get("devices/registrations?status=active").await.result(), &json!([]));
    assert_eq!(api.get("devices/registrations?status=revoked").await.column("id"), [id.as_str()]);

    api.post(&format!("devices/registrations/unrevoke?id={id}"), json!({})).await.result();
    let told = feed.next().await.unwrap();
    assert!(matches!(told.changes.as_slice(), [Change::RegistrationPut(put)] if !put.revoked), "{told:?}");
    api.delete(&format!("devices/registrations/{id}")).await.result();
    let told = feed.next().await.unwrap();
    assert!(matches!(told.changes.as_slice(), [Change::RegistrationRemoved { .. }]), "{told:?}");
    assert_eq!(api.enroll(Some(&token), Some(b"key"), LAPTOP).await.status, StatusCode::OK);
}

#[tokio::test]
async fn several_registrations_are_revoked_together_in_every_spelling() {
    let api = Api::new().await;
    let token = api.service_token(json!({})).await;
    let mut ids = Vec::new();
    for key in [b"1", b"2", b"3"] {
        ids.push(api.enroll(Some(&token), Some(key), LAPTOP).await.text("/registration_id"));
    }
    let active = async || api.get("devices/registrations?status=active").await.column("id");
    let [a, b, c] = ids.as_slice() else { panic!("three") };
    api.post(&format!("devices/registrations/revoke?id={a},{b}"), json!({})).await.result();
    assert_eq!(active().await, [c.as_str()]);
    api.post(&format!("devices/registrations/unrevoke?id={a}&id={b}"), json!({})).await.result();
    assert_eq!(active().await.len(), 3);
    assert_eq!(api.post("devices/revoke", json!([a, c])).await.result(), &Value::Null);
    assert_eq!(active().await, [b.as_str()]);
    api.post("devices/unrevoke", json!([a, c])).await.result();
    let device = api.get(&format!("devices/registrations/{b}")).await.text("/result/device/id");
    api.post("devices/revoke", json!([device])).await.result();
    assert_eq!(active().await, [a.as_str(), c.as_str()], "a device's id stands for its registrations");
    api.post(&format!("devices/physical-devices/{device}/revoke"), json!({})).await.result();
    let shown = api.get(&format!("devices/physical-devices/{device}")).await;
    assert_eq!(shown.result()["active_registrations"], 0);
    api.delete(&format!("devices/physical-devices/{device}")).await.result();
    api.get(&format!("devices/registrations/{b}")).await.refused(404, 1100, "not found");

    let unknown = uuid::Uuid::new_v4();
    let mixed = api.post(&format!("devices/registrations/revoke?id={a}&id={unknown}"), json!({})).await;
    mixed.refused(404, 1100, "not found");
    assert_eq!(active().await.len(), 2, "all or none");
    api.post("devices/registrations/revoke", json!({})).await.refused(400, 1102, "id: expected");
    api.post("devices/revoke", json!({})).await.refused(400, 1102, "expected an array");
}

#[tokio::test]
async fn a_cursor_walks_through_all_registrations() {
    let api = Api::new().await;
    let token = api.service_token(json!({})).await;
    for key in 0..5u8 {
        api.enroll(Some(&token), Some(&[key]), LAPTOP).await;
    }
    for list in ["devices/registrations", "devices/physical-devices"] {
        let (mut seen, mut cursor) = (Vec::new(), Some(String::new()));
        while let Some(at) = cursor {
            let page = api.get(&format!("{list}?per_page=2&cursor={at}")).await;
            seen.extend(page.column("id"));
            cursor = page.body["result_info"]["cursor"].as_str().map(str::to_owned);
            assert_eq!(page.body["result_info"]["total_count"], 5);
        }
        assert_eq!(seen.len(), 5, "{list}: each once");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 5, "{list}: none twice");
        api.get(&format!("{list}?cursor=x")).await.refused(400, 1102, "cursor: expected");
    }
}

#[tokio::test]
async fn fallback_domains_come_back_as_they_were_written_and_the_edges_are_told() {
    let api = Api::new().await;
    let path = "devices/policy/fallback_domains";
    assert_eq!(api.get(path).await.result(), &json!([]));
    let (_, mut feed): (_, adit_store::Feed) = api.control.subscribe().await.unwrap();
    let domains = json!([
        { "suffix": "Corp.Example.", "description": "the office", "dns_server": ["192.0.2.53", "2001:DB8::53"] },
        { "suffix": "lan", "description": null, "dns_server": null },
    ]);
    let put = api.send(Method::PUT, &api.path(path), Some(&domains)).await;
    assert_eq!(put.result(), &domains);
    assert_eq!(api.get(path).await.result(), &domains);
    let told = feed.next().await.unwrap().changes;
    let [adit_model::Change::FallbackDomainsPut(told)] = told.as_slice() else { panic!("{told:?}") };
    let told: Vec<_> = told.domains.iter().map(|one| (one.suffix.as_str(), one.servers.len())).collect();
    assert_eq!(told, [("corp.example", 2), ("lan", 0)]);
    for (wrong, pointer) in [
        (json!({ "suffix": "lan" }), ""),
        (json!([{ "description": "x" }]), "/0/suffix"),
        (json!([{ "suffix": "a..b" }]), "/0/suffix"),
        (json!([{ "suffix": "lan" }, { "suffix": "LAN." }]), "/1/suffix"),
        (json!([{ "suffix": "lan", "dns_server": ["dns.example"] }]), "/0/dns_server/0"),
    ] {
        let answer = api.send(Method::PUT, &api.path(path), Some(&wrong)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
        assert_eq!(answer.body["errors"][0]["source"]["pointer"], pointer, "{}", answer.body);
    }
    assert_eq!(api.get(path).await.result(), &domains, "what is wrong changes nothing");
    let none = api.send(Method::PUT, &api.path(path), Some(&json!([]))).await;
    assert_eq!(none.result(), &json!([]));
}

#[tokio::test]
async fn a_device_that_connects_is_seen() {
    let api = Api::new().await;
    let token = api.service_token(json!({})).await;
    let id = api.enroll(Some(&token), Some(b"key"), LAPTOP).await.text("/registration_id");
    let seen = adit_model::RegistrationSeen {
        registration: id.parse().unwrap(),
        source: "198.51.100.7".parse().unwrap(),
        agent_version: "0.2.0".into(),
        at: SystemTime::now() + std::time::Duration::from_secs(100),
    };
    api.control.record(Record::RegistrationSeen(seen)).await;
    let shown = api.get(&format!("devices/registrations/{id}")).await;
    assert!(shown.text("/result/last_seen_at") > shown.text("/result/created_at"));
    assert_eq!(shown.result()["device"]["client_version"], "0.2.0");
    assert_eq!(api.get("devices/physical-devices").await.result()[0]["public_ip"], "198.51.100.7");
}
