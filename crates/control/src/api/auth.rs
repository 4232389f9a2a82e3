//! Who asks: bearer tokens, and what each refusal is called (contract D, 3.1 and 3.2).

use std::net::IpAddr;
use std::time::Instant;

use adit_model::{AccountId, SecretHash};
use adit_store::{Actor, TokenRow};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use ipnet::IpNet;
use serde_json::Value;
use time::OffsetDateTime;
use tracing::warn;

use super::envelope::ApiError;
use crate::Control;
use crate::permission::{self, Area, Level};

/// Longest credential that is looked at, in bytes.
const MAX_CREDENTIAL_BYTES: usize = 512;

/// A token, and whether it is good now.
#[derive(Debug)]
pub(super) struct Principal {
    pub(super) token: TokenRow,
    pub(super) standing: Standing,
}

/// Whether a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Active,
    /// Switched off, or not good yet.
    Disabled,
    Expired,
}

impl Standing {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
        }
    }

    pub(super) fn of(token: &TokenRow, now: OffsetDateTime) -> Self {
        if token.expires_at.is_some_and(|until| until <= now) {
            Self::Expired
        } else if token.disabled || token.not_before.is_some_and(|from| now < from) {
            Self::Disabled
        } else {
            Self::Active
        }
    }
}

impl Principal {
    /// Whether it may do this on this account.
    pub(super) fn may(&self, account: AccountId, area: Area, level: Level) -> bool {
        permission::may(&self.token.policies, account, area, level)
    }

    /// Whether it may know of this account: its own, and in its policies.
    pub(super) fn sees(&self, account: AccountId) -> bool {
        self.token.account == account && permission::sees(&self.token.policies, account)
    }
}

/// Finds the token of a request. A token that is not good now is returned all the same, for `tokens/verify`.
pub(super) async fn authenticate(
    control: &Control,
    headers: &HeaderMap,
    actor: &Actor,
) -> Result<Principal, ApiError> {
    let credential = match bearer(headers) {
        Ok(credential) => credential,
        Err(error) => return Err(refused(control, actor, None, error).await),
    };
    let found = control.0.store.token_by_hash(SecretHash::of(credential.as_bytes())).await?;
    let Some(token) = found else {
        let error = ApiError::new(StatusCode::UNAUTHORIZED, 10000, "Authentication error");
        return Err(refused(control, actor, None, error).await);
    };
    if !allowed_from(token.condition.as_ref(), actor.address) {
        let address = actor.address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let message = format!("Cannot use the access token from location: {address}");
        let error = ApiError::new(StatusCode::FORBIDDEN, 9109, message);
        return Err(refused(control, actor, Some(token.account), error).await);
    }
    let standing = Standing::of(&token, OffsetDateTime::now_utc());
    Ok(Principal { token, standing })
}

/// Whether a request shows a token, good or not.
pub(super) fn shows_token(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION)
}

/// The credential in the headers. A bearer token wins over the others (contract D, 3.1).
fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let good = |text: &&str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
            !text.is_empty() && text.len() <= MAX_CREDENTIAL_BYTES && text.bytes().all(plain)
        };
        let scheme = |text: &str| text.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "));
        let credential = value.to_str().ok().filter(|text| scheme(text)).map(|text| text[7..].trim());
        return credential.filter(good).ok_or_else(|| {
            let chain = vec![(6111, "Invalid format for Authorization header")];
            let error = ApiError::new(StatusCode::BAD_REQUEST, 6003, "Invalid request headers");
            ApiError { chain, ..error }
        });
    }
    let unsupported = [
        ("x-auth-key", "X-Auth-Key, a global API key,"),
        ("x-auth-user-service-key", "X-Auth-User-Service-Key"),
    ];
    if let Some((_, what)) = unsupported.iter().find(|(name, _)| headers.contains_key(*name)) {
        let message = format!(
            "Authentication error: {what} is not supported, send an API token as Authorization: Bearer TOKEN"
        );
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, 10000, message));
    }
    let message = "Missing X-Auth-Key, X-Auth-Email or Authorization headers";
    Err(ApiError::new(StatusCode::BAD_REQUEST, 9106, message))
}

/// Counts and records a refused credential, which may be one of an account; what the client is told in the end.
pub(crate) async fn refused(
    control: &Control,
    actor: &Actor,
    account: Option<AccountId>,
    error: ApiError,
) -> ApiError {
    if let Err(wait) = control.failures().refuse(actor.address, Instant::now()) {
        return ApiError::too_many(wait.as_secs());
    }
    if let Err(fault) = control.0.store.audit_refusal(actor, account, &error.message).await {
        warn!(error = &fault as &dyn std::error::Error, "a refused credential was not recorded");
    }
    error
}

/// Whether a token's condition, `{request_ip: {in, not_in}}`, lets it be used from this address.
fn allowed_from(condition: Option<&Value>, address: Option<IpAddr>) -> bool {
    let Some(condition) = condition else { return true };
    let holds = |key: &str| {
        let networks = condition["request_ip"][key].as_array()?;
        let mut networks = networks.iter().filter_map(|network| network.as_str()?.parse::<IpNet>().ok());
        let address = address?.to_canonical();
        Some(networks.any(|network| network.contains(&address)))
    };
    let limited = |key: &str| condition["request_ip"][key].as_array().is_some_and(|list| !list.is_empty());
    let inside = !limited("in") || holds("in") == Some(true);
    let outside = !limited("not_in") || holds("not_in") == Some(false);
    inside && outside
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_condition_limits_addresses() {
        let check = |condition: Value, address: Option<&str>, expected: bool| {
            let address = address.map(|address| address.parse().unwrap());
            assert_eq!(allowed_from(Some(&condition), address), expected, "{condition} {address:?}");
        };
        let inside = json!({ "request_ip": { "in": ["192.0.2.0/24"] } });
        check(inside.clone(), Some("192.0.2.7"), true);
        check(inside.clone(), Some("::ffff:192.0.2.7"), true);
        check(inside.clone(), Some("198.51.100.1"), false);
        check(inside, None, false);
        let outside = json!({ "request_ip": { "not_in": ["192.0.2.0/24"] } });
        check(outside.clone(), Some("192.0.2.7"), false);
        check(outside, Some("198.51.100.1"), true);
    }
}
