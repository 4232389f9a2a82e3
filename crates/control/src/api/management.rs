//! Management tokens (contract D, 6.2): with one, a person's program asks a connector for its logs, its metrics or its host.
//!
//! A token is a JWT (RFC 7519) signed with ES256 by a key of the installation, good for an hour and for one tunnel. It is
//! made for those who may change tunnels: what a connector tells is for nobody else.

use adit_store::Actor;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::{Call, tunnel};

/// The name of the secret that holds the key.
const KEY: &str = "management-token-key";
/// How long a token is good, in seconds.
const LIFETIME_SECONDS: i64 = 3600;
/// What tokens are made for.
const RESOURCES: [&str; 3] = ["logs", "admin", "host_details"];

/// The body of a request for a token.
pub(super) const CREATE: &[Field] = &[Field::required(
    "resources",
    "an array of logs, admin or host_details",
    Shape::List(&Shape::OneOf(&RESOURCES), 100, "an array of logs, admin or host_details"),
)];

/// `POST management` with `{"resources": [..]}`.
pub(super) async fn create(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    let expected = "an array of logs, admin or host_details";
    let resources = fields.required("resources", expected, fields.value("resources"))?;
    let resources: Option<Vec<&str>> =
        resources.as_array().and_then(|resources| resources.iter().map(Value::as_str).collect());
    let known = |resources: &Vec<&str>| {
        !resources.is_empty() && resources.iter().all(|resource| RESOURCES.contains(resource))
    };
    let resources = resources.filter(known).ok_or_else(|| fields.wrong("resources", expected))?;
    token(call, id, &resources).await
}

/// `POST management/{resource}`, as a connector's own commands ask.
pub(super) async fn create_for(call: &Call<'_>, id: &str, resource: &str) -> Result<Reply, ApiError> {
    if !RESOURCES.contains(&resource) {
        return Err(ApiError::no_route());
    }
    token(call, id, &[resource]).await
}

async fn token(call: &Call<'_>, id: &str, resources: &[&str]) -> Result<Reply, ApiError> {
    let tunnel = tunnel::row(call, id).await?;
    if tunnel.deleted_at.is_some() {
        return Err(tunnel::not_found());
    }
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let claims = json!({
        "iss": "adit",
        "iat": now,
        "nbf": now,
        "exp": now + LIFETIME_SECONDS,
        "tun": { "id": tunnel.id, "account_tag": tunnel.account },
        "actor": { "id": call.principal.token.id, "support": false },
        "res": resources,
    });
    let key = key(call).await?;
    Ok(Reply::One(sign(&key, &claims)?.into()))
}

/// The installation's key, made the first time.
async fn key(call: &Call<'_>) -> Result<EcdsaKeyPair, ApiError> {
    let store = &call.control.0.store;
    let der = match store.secret_fetch(KEY).await? {
        Some(der) => der,
        None => store.secret_create(&Actor::system(), KEY, &new_key()?).await?,
    };
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)
        .map_err(|error| ApiError::internal(&error))
}

fn new_key() -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let made = made.map_err(|error| ApiError::internal(&error))?;
    Ok(Zeroizing::new(made.as_ref().to_vec()))
}

/// A JWS in its compact form (RFC 7515, 7.1).
fn sign(key: &EcdsaKeyPair, claims: &Value) -> Result<String, ApiError> {
    let id = URL_SAFE_NO_PAD.encode(&Sha256::digest(key.public_key().as_ref())[..16]);
    let header = json!({ "alg": "ES256", "kid": id, "typ": "JWT" });
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&header), encode(claims));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes());
    let signature = signature.map_err(|error| ApiError::internal(&error))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_token_has_its_claims_and_is_signed_with_the_key() {
        let key = new_key().unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key).unwrap();
        let claims = json!({ "res": ["logs"] });
        let token = sign(&key, &claims).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, body) = signed.split_once('.').unwrap();
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&decode(body)).unwrap(), claims);
        assert_eq!(serde_json::from_slice::<Value>(&decode(header)).unwrap()["alg"], "ES256");
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref());
        public.verify(signed.as_bytes(), &decode(signature)).unwrap();
        assert!(public.verify(b"other", &decode(signature)).is_err());
    }
}
