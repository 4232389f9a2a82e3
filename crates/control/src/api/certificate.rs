//! The authorities by which an account's TLS is opened (contract D, 9.4): `A/gateway/certificates`.
//!
//! The built-in one has the nil UUID and is always there. What holds: a key goes in and never comes out; the authority that
//! the settings name is neither made unavailable nor deleted, so that a rotation is: make one, have devices trust it,
//! activate it, choose it, and take the old one away.

use adit_model::{CertificateId, GatewaySettings};
use adit_store::{
    CertificateError, CertificateKind, CertificateRow, FindError, MAX_CERTIFICATES, NewCertificate,
};
use http::StatusCode;
use serde_json::{Value, json};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::answer::{Kind, object};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, shape};
use crate::inspection::{self, Authority, AuthorityError, Described, VALIDITY_DAYS};
use crate::permission::{Area, Level};

/// Longest validity that may be asked for, in days (contract D, 9.4).
const MAX_VALIDITY_DAYS: u16 = 10_950;
/// Longest certificate or key, as PEM, in characters.
const MAX_PEM: usize = 16 << 10;

const CREATE: &[Field] = &[
    Field::optional("validity_period_days", Shape::Told(validity)),
    Field::optional("certificate", Shape::Comment(MAX_PEM)),
    Field::optional("private_key", Shape::Comment(MAX_PEM)),
];

fn validity() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": MAX_VALIDITY_DAYS })
}

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post(
        "/accounts/{account}/gateway/certificates",
        "Make an authority of inspection, or upload one",
        |call| Box::pin(create(call)),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Gateway, CREATE)
    .answers(CERTIFICATE),
    Operation::get(
        "/accounts/{account}/gateway/certificates",
        "List the authorities of inspection",
        |call| Box::pin(list(call)),
    )
    .needs(Area::ZeroTrust, Level::Read)
    .list(Style::Single, CERTIFICATE, &[]),
    Operation::get(
        "/accounts/{account}/gateway/certificates/{certificate}",
        "Get an authority of inspection",
        |call| Box::pin(fetch(call, call.parameter("certificate"))),
    )
    .needs(Area::ZeroTrust, Level::Read)
    .answers(CERTIFICATE),
    Operation::delete(
        "/accounts/{account}/gateway/certificates/{certificate}",
        "Delete an authority of inspection that is not in use",
        |call| Box::pin(delete(call, call.parameter("certificate"))),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .answers(CERTIFICATE),
    Operation::post(
        "/accounts/{account}/gateway/certificates/{certificate}/activate",
        "Make an authority of inspection available",
        |call| Box::pin(set_available(call, call.parameter("certificate"), true)),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Gateway, &[])
    .answers(CERTIFICATE),
    Operation::post(
        "/accounts/{account}/gateway/certificates/{certificate}/deactivate",
        "Make an authority of inspection unavailable",
        |call| Box::pin(set_available(call, call.parameter("certificate"), false)),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Gateway, &[])
    .answers(CERTIFICATE),
];

const CERTIFICATE: Kind = Kind::Object("GatewayCertificate", FIELDS, &[]);
const KINDS: Kind = Kind::OneOf(&["gateway_managed", "custom"]);

/// An authority as it is shown.
struct Shown {
    id: CertificateId,
    kind: CertificateKind,
    available: bool,
    certificate: String,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

object! {
    FIELDS = object(shown: &Shown, described: &Described, in_use: bool) [
        "id": Kind::Uuid => shown.id,
        "type": KINDS => shown.kind.as_str(),
        "binding_status": Kind::OneOf(&["available", "inactive"]) =>
            if shown.available { "available" } else { "inactive" },
        "in_use": Kind::Flag => in_use,
        "certificate": Kind::Text => shown.certificate,
        "fingerprint": Kind::Text => described.fingerprint,
        "issuer_org": Kind::Text => described.issuer_organisation,
        "issuer_raw": Kind::Text => described.issuer,
        "created_at": Kind::Time => shape::time(shown.created_at),
        "updated_at": Kind::Time => shape::time(shown.updated_at),
        "uploaded_on": Kind::Time => shape::time(shown.created_at),
        "expires_on": Kind::Time => shape::time(described.not_after),
    ]
}

impl From<CertificateRow> for Shown {
    fn from(row: CertificateRow) -> Self {
        let CertificateRow { id, kind, available, certificate, created_at, updated_at, .. } = row;
        Self { id, kind, available, certificate, created_at, updated_at }
    }
}

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Gateway)?;
    let days = match fields.value("validity_period_days") {
        None => None,
        Some(given) => {
            let days = given.as_u64().and_then(|days| u16::try_from(days).ok());
            let days = days.filter(|days| (1..=MAX_VALIDITY_DAYS).contains(days));
            Some(
                days.ok_or_else(|| fields.wrong("validity_period_days", "a number of days from 1 to 10950"))?,
            )
        }
    };
    let certificate = fields.comment("certificate", MAX_PEM)?;
    let key = fields.comment("private_key", MAX_PEM)?.map(Zeroizing::new);
    let (kind, authority) = match (certificate, key, days) {
        (None, None, days) => {
            let made = inspection::make(call.account, days.unwrap_or(VALIDITY_DAYS));
            (CertificateKind::Managed, made.map_err(|error| ApiError::internal(&error))?)
        }
        (Some(_), Some(_), Some(_)) => {
            let message = "nothing: an authority that is uploaded has its dates";
            return Err(fields.wrong("validity_period_days", message));
        }
        (Some(certificate), Some(key), None) => {
            let checked = inspection::check(&certificate, &key, OffsetDateTime::now_utc());
            let wrong = |error: inspection::Unusable| {
                Family::Gateway.invalid(&error.to_string()).at(format!("/{}", error.field()))
            };
            (CertificateKind::Custom, checked.map_err(wrong)?)
        }
        (Some(_), None, _) => return Err(fields.wrong("private_key", "the key of the certificate as PEM")),
        (None, Some(_), _) => return Err(fields.wrong("certificate", "the certificate of the key as PEM")),
    };
    let Authority { certificate, key } = authority;
    let new = NewCertificate { kind, certificate, key };
    let made = call.control.0.store.certificate_create(&call.actor, call.account, new).await;
    shown(call, &made.map_err(refused)?.value.into()).await.map(Reply::One)
}

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let store = &call.control.0.store;
    let in_use = in_use(call).await?;
    let mut rows = vec![shown_as(&built_in(call).await?, in_use)?];
    for row in store.certificate_list(call.account).await? {
        rows.push(shown_as(&row.into(), in_use)?);
    }
    Ok(Reply::single(rows))
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    if id == CertificateId::BUILT_IN {
        return shown(call, &built_in(call).await?).await.map(Reply::One);
    }
    let found = call.control.0.store.certificate_fetch(call.account, id).await;
    shown(call, &found.map_err(missing)?.into()).await.map(Reply::One)
}

async fn delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = not_built_in(parse(id)?)?;
    let gone = call.control.0.store.certificate_delete(&call.actor, call.account, id).await;
    Ok(Reply::One(shown_as(&gone.map_err(refused)?.into(), None)?))
}

async fn set_available(call: &Call<'_>, id: &str, available: bool) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let store = &call.control.0.store;
    if id == CertificateId::BUILT_IN && available {
        return shown(call, &built_in(call).await?).await.map(Reply::One);
    }
    let id = not_built_in(id)?;
    if available {
        let row = store.certificate_fetch(call.account, id).await.map_err(missing)?;
        if described(&row.certificate)?.not_after <= OffsetDateTime::now_utc() {
            return Err(Family::Gateway.invalid("the certificate is past its end"));
        }
    }
    let done = store.certificate_available_set(&call.actor, call.account, id, available).await;
    shown(call, &done.map_err(refused)?.value.into()).await.map(Reply::One)
}

/// Refuses settings that name an authority by which nothing can be opened.
pub(super) async fn usable(call: &Call<'_>, settings: &GatewaySettings) -> Result<(), ApiError> {
    let wrong = |message: &str| Err(Family::Rule.invalid(message).at("/settings/certificate"));
    let store = &call.control.0.store;
    let pem = if settings.certificate == CertificateId::BUILT_IN {
        if !settings.tls_decrypt {
            return Ok(());
        }
        built_in(call).await?.certificate
    } else {
        match store.certificate_fetch(call.account, settings.certificate).await {
            Ok(row) if row.available => row.certificate,
            Ok(_) => return wrong("certificate: it is not available: activate it first, or choose another"),
            Err(FindError::NotFound) => return wrong("certificate: there is none with that id"),
            Err(FindError::Fault(fault)) => return Err(fault.into()),
        }
    };
    if described(&pem)?.not_after <= OffsetDateTime::now_utc() {
        return wrong("certificate: it is past its end: make another, activate it and choose it");
    }
    Ok(())
}

/// The authority that opens the account's TLS; none while nothing is opened.
async fn in_use(call: &Call<'_>) -> Result<Option<CertificateId>, ApiError> {
    let settings = call.control.0.store.gateway_settings_fetch(call.account).await?;
    Ok(settings.filter(|row| row.edge.tls_decrypt).map(|row| row.edge.certificate))
}

async fn shown(call: &Call<'_>, of: &Shown) -> Result<Value, ApiError> {
    shown_as(of, in_use(call).await?)
}

fn shown_as(of: &Shown, in_use: Option<CertificateId>) -> Result<Value, ApiError> {
    let described = described(&of.certificate)?;
    Ok(object(of, &described, in_use == Some(of.id)))
}

fn described(certificate: &str) -> Result<Described, ApiError> {
    inspection::describe(certificate).map_err(|error| ApiError::internal(&error))
}

async fn built_in(call: &Call<'_>) -> Result<Shown, ApiError> {
    let made = inspection::built_in(&call.control.0.store, call.account).await;
    let row = made.map_err(|error| match error {
        AuthorityError::Fault(fault) => fault.into(),
        error @ (AuthorityError::Certificate(_) | AuthorityError::NotFound) => ApiError::internal(&error),
    })?;
    Ok(Shown {
        id: CertificateId::BUILT_IN,
        kind: CertificateKind::Managed,
        available: true,
        certificate: row.certificate,
        created_at: row.created_at,
        updated_at: row.created_at,
    })
}

fn parse(id: &str) -> Result<CertificateId, ApiError> {
    id.parse().map_err(|_| not_found())
}

/// The built-in authority stays as it is.
fn not_built_in(id: CertificateId) -> Result<CertificateId, ApiError> {
    if id != CertificateId::BUILT_IN {
        return Ok(id);
    }
    Err(ApiError::new(StatusCode::CONFLICT, 2101, "the built-in certificate stays, and stays available"))
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 2100, "certificate not found")
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

fn refused(error: CertificateError) -> ApiError {
    match error {
        CertificateError::NotFound => not_found(),
        CertificateError::InUse => {
            let message = "certificate is in use: choose another in the configuration of the gateway first";
            ApiError::new(StatusCode::CONFLICT, 2101, message)
        }
        CertificateError::TooMany => {
            let message = format!("there are {MAX_CERTIFICATES} certificates already: delete one first");
            ApiError::new(StatusCode::CONFLICT, 2101, message)
        }
        CertificateError::Fault(fault) => fault.into(),
    }
}
