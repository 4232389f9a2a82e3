//! How an account's gateway treats flows beside its rules (contract D, 9.1 and 9.2): `A/gateway`,
//! `A/gateway/configuration`.
//!
//! The settings are one table: each key with what it is when nobody has set it, and what it may be. What this version
//! does not carry out is refused, and never kept as if it were.

use adit_model::{AccountId, CertificateId, GatewaySettings, InspectionMode, Logging, NonHttpTls};
use adit_store::{GatewaySettingsContent, GatewaySettingsError, GatewaySettingsRow};
use serde_json::{Map, Value, json};

use super::answer::{Kind, object};
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::Operation;
use super::{Call, block_page, certificate, shape};
use crate::permission::{Area, Level};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("/accounts/{account}/gateway", "Get the account of the gateway", |call| {
        Box::pin(std::future::ready(Ok(Reply::One(gateway(call.account)))))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .answers(GATEWAY),
    Operation::post("/accounts/{account}/gateway", "Make the account of the gateway: it is there", |call| {
        Box::pin(std::future::ready(Ok(Reply::One(gateway(call.account)))))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .answers(GATEWAY),
    Operation::get("/accounts/{account}/gateway/configuration", "Get the settings of the gateway", |call| {
        Box::pin(fetch(call))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .answers(CONFIGURATION),
    Operation::put(
        "/accounts/{account}/gateway/configuration",
        "Replace the settings of the gateway",
        |call| Box::pin(change(call, Way::Replace)),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Rule, BODY)
    .answers(CONFIGURATION),
    Operation::patch("/accounts/{account}/gateway/configuration", "Change settings of the gateway", |call| {
        Box::pin(change(call, Way::Merge))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Rule, BODY)
    .answers(CONFIGURATION),
];

const GATEWAY: Kind = Kind::Object("Gateway", GATEWAY_FIELDS, &[]);
const CONFIGURATION: Kind = Kind::Object("GatewayConfiguration", CONFIGURATION_FIELDS, &[]);

object! {
    GATEWAY_FIELDS = gateway(account: AccountId) [
        "id": Kind::Tag => account.to_string(),
        "gateway_tag": Kind::Tag => account.to_string(),
        "provider_name": Kind::Text => "adit",
    ]
}

object! {
    CONFIGURATION_FIELDS = configuration(settings: Value, row: Option<&GatewaySettingsRow>) [
        "settings": Kind::Map(&Kind::Anything) => settings,
        "created_at": Kind::Maybe(&Kind::Time) => shape::maybe_time(row.map(|row| row.created_at)),
        "updated_at": Kind::Maybe(&Kind::Time) => shape::maybe_time(row.map(|row| row.updated_at)),
    ]
}

const BODY: &[Field] = &[Field::required("settings", "an object", Shape::Told(settings_schema))];

fn settings_schema() -> Value {
    json!({ "type": "object" })
}

/// A key of the settings.
struct Key {
    name: &'static str,
    default: fn() -> Value,
    /// What is wrong with a value, if anything is.
    wrong: fn(&Value) -> Option<&'static str>,
}

const KEYS: [Key; 19] = [
    key("tls_decrypt", || json!({ "enabled": false }), switch),
    key("activity_log", || json!({ "enabled": true }), switch),
    key("protocol_detection", || json!({ "enabled": false }), switch),
    key(
        "inspection",
        || json!({ "mode": "dynamic" }),
        |value| {
            one_of(value, "mode", &["static", "dynamic"]).then_some("expected {\"mode\": static or dynamic}")
        },
    ),
    key("block_page", || json!({ "enabled": false }), block_page::wrong),
    key(
        "antivirus",
        || json!({ "enabled_download_phase": false, "enabled_upload_phase": false, "fail_closed": false }),
        |value| {
            let on = ["enabled_download_phase", "enabled_upload_phase"].iter().any(|key| value[key] == true);
            on.then_some("there is no scanner")
        },
    ),
    key("fips", || json!({ "tls": false }), |value| fixed(value, "tls", false, "FIPS mode is not built")),
    key(
        "certificate",
        || json!({ "id": CertificateId::BUILT_IN }),
        |value| id_of(value).is_none().then_some("expected {\"id\": the id of a certificate}"),
    ),
    key(
        "body_scanning",
        || json!({ "inspection_mode": "deep" }),
        |value| one_of(value, "inspection_mode", &["deep", "shallow"]).then_some("expected deep or shallow"),
    ),
    key(
        "browser_isolation",
        || json!({ "url_browser_isolation_enabled": false, "non_identity_enabled": false }),
        |value| {
            let on = ["url_browser_isolation_enabled", "non_identity_enabled"]
                .iter()
                .any(|key| value[key] == true);
            on.then_some("browser isolation is not built")
        },
    ),
    key(
        "extended_email_matching",
        || json!({ "enabled": false }),
        |value| fixed(value, "enabled", false, "extended matching of e-mail addresses is not built"),
    ),
    key(
        "host_selector",
        || json!({ "enabled": false }),
        |value| fixed(value, "enabled", false, "the host selector is not built"),
    ),
    key(
        "sandbox",
        || json!({ "enabled": false, "fallback_action": "allow" }),
        |value| fixed(value, "enabled", false, "there is no sandbox"),
    ),
    key(
        "max_ttl_secs",
        || Value::Null,
        |value| {
            let good =
                value.is_null() || value.as_u64().is_some_and(|secs| (1..=MAX_TTL_SECS).contains(&secs));
            (!good).then_some("expected a number of seconds from 1 to 604800")
        },
    ),
    key(
        "x_non_http_tls",
        || json!("error"),
        |value| (value != "error" && value != "passthrough").then_some("expected error or passthrough"),
    ),
    key("x_dial_before_policy", || json!(false), |value| (value != false).then_some("only false is built")),
    key("x_egress_enabled", || json!(false), |value| (value != false).then_some("egress is not built")),
    key(
        "x_reevaluate_on_change",
        || json!(true),
        |value| (!value.is_boolean()).then_some("expected true or false"),
    ),
    key(
        "x_close_on_session_expiry",
        || json!(false),
        |value| (value != false).then_some("sessions are not built"),
    ),
];

/// The certificate that a setting names.
fn id_of(value: &Value) -> Option<CertificateId> {
    value["id"].as_str()?.parse().ok()
}

/// A week: longer than anything that names are published with.
const MAX_TTL_SECS: u64 = 604_800;

const fn key(name: &'static str, default: fn() -> Value, wrong: fn(&Value) -> Option<&'static str>) -> Key {
    Key { name, default, wrong }
}

fn switch(value: &Value) -> Option<&'static str> {
    (!value["enabled"].is_boolean()).then_some("expected {\"enabled\": true or false}")
}

/// A switch that stays where it is.
fn fixed(value: &Value, key: &str, at: bool, otherwise: &'static str) -> Option<&'static str> {
    let there = &value[key];
    (!there.is_null() && *there != at).then_some(otherwise)
}

fn one_of(value: &Value, key: &str, known: &[&str]) -> bool {
    !value[key].as_str().is_some_and(|there| known.contains(&there))
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Replace,
    Merge,
}

async fn fetch(call: &Call<'_>) -> Result<Reply, ApiError> {
    let row = call.control.0.store.gateway_settings_fetch(call.account).await?;
    Ok(Reply::One(answer(row.as_ref())))
}

/// Keys that a newer version knows have their defaults.
fn answer(row: Option<&GatewaySettingsRow>) -> Value {
    let mut settings = defaults();
    if let Some(stored) = row.and_then(|row| row.settings.as_object()) {
        settings.extend(stored.clone());
    }
    settings.insert(DEPRECATED_CERTIFICATE.to_owned(), custom_certificate(&settings["certificate"], row));
    configuration(Value::Object(settings), row)
}

/// What older clients call the certificate: the same choice, and never stored (contract D, 9.2).
const DEPRECATED_CERTIFICATE: &str = "custom_certificate";

fn custom_certificate(certificate: &Value, row: Option<&GatewaySettingsRow>) -> Value {
    let chosen = id_of(certificate).filter(|id| *id != CertificateId::BUILT_IN);
    json!({
        "enabled": chosen.is_some(),
        "id": chosen,
        // It stays available for as long as it is chosen.
        "binding_status": chosen.map(|_| "available"),
        "updated_at": chosen.and(row).map(|row| shape::time(row.updated_at)),
    })
}

fn defaults() -> Map<String, Value> {
    KEYS.iter().map(|key| (key.name.to_owned(), (key.default)())).collect()
}

async fn change(call: &Call<'_>, way: Way) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Rule)?;
    let given = given(&fields)?;
    let account = call.account;
    let merged = |before: Option<&Value>| -> Result<_, ApiError> {
        let mut settings = defaults();
        let now = before.and_then(|before| id_of(&before["certificate"]));
        let before = before.and_then(Value::as_object).into_iter().flatten();
        // Those of our own stay where nobody speaks of them.
        settings.extend(
            before
                .filter(|(name, _)| way == Way::Merge || name.starts_with("x_"))
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        settings.extend(given.settings.clone());
        if let Some(chosen) = given.certificate(now.unwrap_or(CertificateId::BUILT_IN))? {
            settings.insert("certificate".to_owned(), json!({ "id": chosen }));
        }
        let edge = edge_settings(account, &settings);
        let block_page = block_page::page(&settings["block_page"]);
        Ok(GatewaySettingsContent { settings: Value::Object(settings), edge, block_page })
    };
    let store = &call.control.0.store;
    let opens = ["tls_decrypt", "certificate"].iter().any(|key| given.settings.contains_key(*key));
    if opens || given.custom.is_some() {
        // Before edges are told that TLS is opened, there is something to open it with.
        let before = store.gateway_settings_fetch(account).await?;
        let next = merged(before.as_ref().map(|row| &row.settings))?;
        certificate::usable(call, &next.edge).await?;
    }
    let row = store.gateway_settings_change(&call.actor, account, &merged).await?;
    Ok(Reply::One(answer(Some(&row.value))))
}

/// The settings that a body gives, checked; one that is null has its default again.
fn given(fields: &Fields) -> Result<Given, ApiError> {
    let Some(Value::Object(settings)) = fields.value("settings") else {
        return Err(fields.wrong("settings", "an object"));
    };
    let mut given = Map::new();
    for key in &KEYS {
        let Some(value) = settings.get(key.name) else { continue };
        let value = if value.is_null() { (key.default)() } else { value.clone() };
        if let Some(wrong) = (key.wrong)(&value) {
            let pointer = format!("/settings/{}", key.name);
            return Err(Family::Rule.invalid(&format!("{}: {wrong}", key.name)).at(pointer));
        }
        given.insert(key.name.to_owned(), value);
    }
    let custom = match settings.get(DEPRECATED_CERTIFICATE) {
        None | Some(Value::Null) => None,
        Some(custom) => {
            let id = if custom["enabled"] == false { Some(CertificateId::BUILT_IN) } else { id_of(custom) };
            let expected = "expected {\"enabled\": true or false, \"id\": the id of a certificate}";
            let wrong = || of_custom(expected);
            Some(id.filter(|_| custom["enabled"].is_boolean()).ok_or_else(wrong)?)
        }
    };
    Ok(Given { settings: given, custom })
}

/// What a body gives.
struct Given {
    settings: Map<String, Value>,
    /// The certificate by its older key.
    custom: Option<CertificateId>,
}

impl Given {
    /// The certificate that is chosen, if one is. Clients send both keys as they read them, and change the one that they know:
    /// the one that differs from what there is counts.
    fn certificate(&self, now: CertificateId) -> Result<Option<CertificateId>, ApiError> {
        let newer = self.settings.get("certificate").and_then(id_of);
        match (newer, self.custom) {
            (Some(newer), Some(older)) if newer != older && newer != now && older != now => {
                Err(of_custom("another than that of certificate"))
            }
            (Some(newer), Some(older)) => Ok(Some(if newer == now { older } else { newer })),
            (newer, older) => Ok(newer.or(older)),
        }
    }
}

/// What is said of the older key.
fn of_custom(text: &str) -> ApiError {
    let pointer = format!("/settings/{DEPRECATED_CERTIFICATE}");
    Family::Rule.invalid(&format!("{DEPRECATED_CERTIFICATE}: {text}")).at(pointer)
}

impl From<GatewaySettingsError> for ApiError {
    fn from(error: GatewaySettingsError) -> Self {
        match error {
            GatewaySettingsError::Fault(fault) => fault.into(),
            GatewaySettingsError::Certificate(_) => {
                let message = format!("{error}: activate it first, or choose another");
                Family::Rule.invalid(&message).at("/settings/certificate")
            }
        }
    }
}

fn edge_settings(account: AccountId, settings: &Map<String, Value>) -> GatewaySettings {
    GatewaySettings {
        account,
        tls_decrypt: settings["tls_decrypt"]["enabled"] == true,
        certificate: id_of(&settings["certificate"]).unwrap_or(CertificateId::BUILT_IN),
        inspection: if settings["inspection"]["mode"] == "static" {
            InspectionMode::Static
        } else {
            InspectionMode::Dynamic
        },
        non_http_tls: if settings["x_non_http_tls"] == "passthrough" {
            NonHttpTls::Passthrough
        } else {
            NonHttpTls::Error
        },
        reevaluate: settings["x_reevaluate_on_change"] == true,
        logging: Logging { enabled: settings["activity_log"]["enabled"] != false, ..Logging::default() },
        max_ttl_secs: settings["max_ttl_secs"].as_u64().and_then(|secs| u32::try_from(secs).ok()),
    }
}
