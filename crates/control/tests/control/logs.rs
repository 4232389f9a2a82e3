//! Log records, and what is recorded (contract D, 9.3 and 12.4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_control::Explainer;
use adit_model::{
    Action, Blocks, Change, DecisionPhase, DecisionRecord, ExplainFor, ExplainQuestion, Explained,
    FirstBytes, FlowId, LogRecord, Party, Protocol, Record, RuleName, log_record,
};
use uuid::Uuid;

use super::*;

/// A flow of this account's device that its rule has blocked; and the flow's id.
pub(super) fn blocked(
    account: &str,
    ids: &BTreeMap<&'static str, String>,
    network: &str,
) -> (LogRecord, String) {
    let address = network.split('/').next().unwrap().replace(".0.0", ".0.1");
    let party = Party {
        flow: FlowId::from_uuid(Uuid::new_v4()),
        account: account.parse().unwrap(),
        registration: ids["registration"].parse().unwrap(),
        device: ids["device"].parse().unwrap(),
        device_name: "laptop".into(),
        user: "ada@example.com".into(),
        source: "192.0.2.7".parse().unwrap(),
        virtual_network: ids["virtual_network"].parse().unwrap(),
        protocol: Protocol::Tcp,
        destination: format!("{address}:443").parse().unwrap(),
        named: None,
        redact: false,
    };
    let session = party.flow.to_string();
    let rule = RuleName { id: ids["rule"].parse().unwrap(), name: "no".into(), action: Action::Block };
    (decision(party, Some(rule), Blocks::Yes, SystemTime::now()), session)
}

fn decision(party: Party, rule: Option<RuleName>, blocks: Blocks, at: SystemTime) -> LogRecord {
    let record = DecisionRecord {
        party: Arc::new(party),
        at,
        blocks,
        rule,
        overridden_by: None,
        phase: DecisionPhase::Opening,
        snapshot: 7,
        first: FirstBytes::default(),
    };
    log_record(&Record::Decision(Box::new(record)), Uuid::new_v4()).unwrap()
}

/// Records of an installation, a second apart, from the oldest to the newest: every third is a block.
async fn filled(api: &Api, count: u64) -> Vec<String> {
    let mut sessions = Vec::new();
    let mut records = Vec::new();
    for number in 0..count {
        let party = Party {
            flow: FlowId::from_uuid(Uuid::from_u128(u128::from(number) + 1)),
            account: api.control.account(),
            registration: "3fa85f64-5717-4562-b3fc-2c963f66afa6".parse().unwrap(),
            device: "3fa85f64-5717-4562-b3fc-2c963f66afa7".parse().unwrap(),
            device_name: "laptop".into(),
            user: "ada@example.com".into(),
            source: "192.0.2.7".parse().unwrap(),
            virtual_network: "3fa85f64-5717-4562-b3fc-2c963f66afa8".parse().unwrap(),
            protocol: Protocol::Tcp,
            destination: format!("198.51.100.{}:443", number % 2).parse().unwrap(),
            named: None,
            redact: false,
        };
        sessions.push(party.flow.to_string());
        let blocks = if number.is_multiple_of(3) { Blocks::Yes } else { Blocks::No };
        let rule = RuleName {
            id: "3fa85f64-5717-4562-b3fc-2c963f66afa9".parse().unwrap(),
            name: "no clusters".into(),
            action: Action::Block,
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000 + number);
        records.push(decision(party, Some(rule).filter(|_| blocks == Blocks::Yes), blocks, at));
    }
    api.control.store().records().add(&records).await.unwrap();
    sessions
}

#[tokio::test]
async fn records_are_paged_by_cursor_both_ways_and_each_is_seen_once() {
    let api = Api::new().await;
    let sessions = filled(&api, 25).await;
    for (direction, expected) in
        [("asc", sessions.clone()), ("desc", sessions.iter().rev().cloned().collect())]
    {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api
                .get(&format!("x/logs/gateway_network?limit=10&direction={direction}&cursor={cursor}"))
                .await;
            seen.extend(page.column("SessionID"));
            cursor = page.body["result_info"]["cursors"]["after"].as_str().unwrap().to_owned();
            if cursor.is_empty() {
                break;
            }
        }
        assert_eq!(seen, expected);
    }
    let stretch =
        "x/logs/gateway_network?since=2030-03-17T17:46:45Z&before=2030-03-17T17:46:50Z&direction=asc";
    assert_eq!(api.get(stretch).await.column("SessionID"), sessions[5..10]);
    assert!(api.get("x/logs/gateway_http").await.column("SessionID").is_empty(), "each layer has its own");
    api.get("x/logs/gateway_nothing").await.refused(404, 1003, "no such dataset");
    api.get("x/logs/gateway_network?cursor=x").await.refused(400, 1003, "cursor");
}

#[tokio::test]
async fn records_are_found_by_rule_device_destination_action_and_session() {
    let api = Api::new().await;
    let sessions = filled(&api, 12).await;
    let found = async |query: &str| {
        api.get(&format!("x/logs/gateway_network?{query}")).await.column("SessionID").len()
    };
    assert_eq!(found("policy_id=3fa85f6457174562b3fc2c963f66afa9").await, 4);
    assert_eq!(found("device_id=3fa85f64-5717-4562-b3fc-2c963f66afa7").await, 12);
    assert_eq!(found("destination_ip=::ffff:198.51.100.1").await, 6);
    assert_eq!(found("action=block&destination_ip=198.51.100.1").await, 2);
    assert_eq!(found(&format!("session_id={}", sessions[3])).await, 1);
    assert_eq!(found("action=redirect").await, 0);
    let wrong = api.get("x/logs/gateway_network?destination_ip=here").await;
    wrong.refused(400, 1003, "destination_ip: expected an IP address");
    let one = api.get(&format!("x/logs/gateway_network?session_id={}", sessions[3])).await;
    let one = &one.result()[0];
    for (field, value) in [
        ("Action", json!("block")),
        ("PolicyName", json!("no clusters")),
        ("DestinationIP", json!("198.51.100.1")),
        ("DestinationPort", json!(443)),
        ("SourceIP", json!("192.0.2.7")),
        ("PolicyGeneration", json!(7)),
        ("SNI", json!("")),
        ("CategoryIDs", json!([])),
    ] {
        assert_eq!(one[field], value, "{field} of {one}");
    }
}

#[tokio::test]
async fn who_may_read_logs_but_not_what_is_personal_sees_them_without_it() {
    let api = Api::new().await;
    filled(&api, 2).await;
    let get = async |token: &str, query: &str| {
        api.send_as(
            Some(token),
            Method::GET,
            &api.path(&format!("x/logs/gateway_network{query}")),
            String::new(),
        )
        .await
    };
    let reader = api.token_with(&["Access: Audit Logs Read"]).await;
    let answer = get(&reader, "").await;
    assert_eq!(answer.column("Email"), ["", ""]);
    assert_eq!(answer.column("SourceIP"), ["", ""]);
    assert_eq!(answer.column("DestinationIP"), ["198.51.100.1", "198.51.100.0"]);
    get(&reader, "?device_id=3fa85f64-5717-4562-b3fc-2c963f66afa7").await.refused(403, 10000, "");
    let both = api.token_with(&["Access: Audit Logs Read", "Zero Trust: PII Read"]).await;
    assert_eq!(get(&both, "").await.column("Email"), ["ada@example.com", "ada@example.com"]);
    let none = api.token_with(&["Zero Trust Read"]).await;
    get(&none, "").await.refused(403, 10000, "");
}

#[tokio::test]
async fn what_is_recorded_is_set_told_to_edges_and_left_alone_by_other_settings() {
    let api = Api::new().await;
    let all = json!({ "log_all": true, "log_blocks": false });
    let default = json!({
        "redact_pii": false,
        "settings_by_rule_type": { "dns": all, "http": all, "l4": all },
        "x_query_strings": false,
    });
    assert_eq!(*api.get("gateway/logging").await.result(), default);
    let blocks = json!({ "log_all": false, "log_blocks": true });
    let body =
        json!({ "redact_pii": true, "settings_by_rule_type": { "l4": blocks }, "x_query_strings": true });
    let set = api.put("gateway/logging", body).await;
    assert_eq!(set.result()["settings_by_rule_type"], json!({ "dns": all, "http": all, "l4": blocks }));
    let decrypt = json!({ "settings": { "inspection": { "mode": "static" } } });
    api.patch("gateway/configuration", decrypt).await.result();
    assert_eq!(*api.get("gateway/logging").await.result(), *set.result());
    let told = api.control.subscribe().await.unwrap().0.changes;
    let settings = |change: &Change| {
        if let Change::GatewaySettingsPut(settings) = change { Some(*settings) } else { None }
    };
    let logging = told.iter().find_map(settings).unwrap().logging;
    assert!(logging.redact_pii && logging.query_strings && logging.enabled);
    assert!(!logging.l4.wants(Blocks::No) && logging.l4.wants(Blocks::Yes) && logging.http.wants(Blocks::No));
    api.patch("gateway/configuration", json!({ "settings": { "activity_log": { "enabled": false } } }))
        .await
        .result();
    let put = api.put("gateway/logging", json!({})).await;
    assert_eq!(put.result()["x_query_strings"], true, "our own key stays");
    assert_eq!(put.result()["redact_pii"], false);
    let told = api.control.subscribe().await.unwrap().0.changes;
    let off =
        |change: &Change| matches!(change, Change::GatewaySettingsPut(settings) if !settings.logging.enabled);
    assert!(told.iter().any(off), "and so does the switch of the configuration");
    let wrong = json!({ "settings_by_rule_type": { "l4": { "log_all": "yes" } } });
    api.put("gateway/logging", wrong).await.refused(400, 2082, "log_all");
}

/// Answers everything in the same way, and remembers what it was asked.
#[derive(Default)]
struct Oracle(std::sync::Mutex<Vec<(ExplainFor, ExplainQuestion)>>);

impl Explainer for Oracle {
    fn explain<'a>(
        &'a self,
        _account: adit_model::AccountId,
        whose: &'a ExplainFor,
        question: &'a ExplainQuestion,
    ) -> std::pin::Pin<Box<dyn Future<Output = Option<Explained>> + Send + 'a>> {
        self.0.lock().unwrap().push((whose.clone(), question.clone()));
        let explained =
            Explained { allowed: false, refusal: Some("blocked".into()), generation: 7, steps: Vec::new() };
        Box::pin(std::future::ready(Some(explained)))
    }
}

#[tokio::test]
async fn an_edge_is_asked_what_becomes_of_a_flow_of_a_device_of_the_account() {
    let api = Api::new().await;
    let service = api.post("access/service_tokens", json!({ "name": "ci" })).await;
    let secret = (service.text("/result/client_id"), service.text("/result/client_secret"));
    let device = api.enroll(Some(&secret), Some(b"key"), device::LAPTOP).await.text("/device_id");
    let body = json!({ "device_id": device, "destination_ip": "198.51.100.101", "server_name": "a.example" });
    api.post("x/explain", body.clone()).await.refused(503, 1001, "no edge");
    let oracle = Arc::new(Oracle::default());
    api.control.explain_by(Arc::clone(&oracle) as Arc<dyn Explainer>);
    let answer = api.post("x/explain", body).await;
    assert_eq!(
        (&answer.result()["allowed"], &answer.result()["refusal"]),
        (&json!(false), &json!("blocked"))
    );
    let (whose, question) = oracle.0.lock().unwrap().remove(0);
    assert_eq!(whose.device.to_string(), device);
    assert_eq!(question.destination, "198.51.100.101:443".parse().unwrap());
    assert_eq!((question.protocol, question.dial), (Protocol::Tcp, true));
    let unknown = json!({ "device_id": Uuid::new_v4(), "destination_ip": "198.51.100.101" });
    api.post("x/explain", unknown).await.refused(404, 1100, "");
    let wrong = json!({ "device_id": device, "destination_ip": "here" });
    api.post("x/explain", wrong).await.refused(400, 1102, "destination_ip");
}

#[tokio::test]
async fn a_plan_takes_rules_and_lists_only_and_leaves_all_as_it_was() {
    let api = Api::new().await;
    let path = |rest: &str| format!("/accounts/{}/{rest}", api.control.account());
    let made = |rest: &str, body: Value| json!({ "operations": [{ "method": "POST", "path": path(rest), "body": body }] });
    let tunnel = api.post("x/policy/plan", made("cfd_tunnel", json!({ "name": "t" }))).await;
    tunnel.refused(400, 1003, "operation 0: path: expected a rule or a list");
    let rule = json!({ "name": "x", "action": "block", "filters": ["l4"], "enabled": true, "traffic": "net.dst.port ==" });
    api.post("x/policy/plan", made("gateway/rules", rule)).await.refused(400, 2088, "operation 0");
    let rule = json!({ "name": "x", "action": "block", "filters": ["l4"], "enabled": true, "traffic": "net.dst.port == 22" });
    let generation = api.control.store().generation();
    let plan = api.post("x/policy/plan", made("gateway/rules", rule)).await;
    assert_eq!((&plan.result()["different"], &plan.result()["complete"]), (&json!(0), &json!(true)));
    assert_eq!(*api.get("gateway/rules").await.result(), json!([]));
    assert_eq!(api.control.store().generation(), generation);
    let reader = api.token_with(&["Zero Trust Write"]).await;
    let body = json!({ "operations": [] }).to_string();
    let refused = api.send_as(Some(&reader), Method::POST, &api.path("x/policy/plan"), body).await;
    refused.refused(403, 10000, "");
}
