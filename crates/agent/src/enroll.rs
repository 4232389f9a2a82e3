//! Enrolment: a new key, proved to the edge in TLS, bound by it to a service token.

use std::sync::Arc;
use std::time::Duration;

use adit_transport::ReadChunk;
use adit_transport::tls::{self, TlsError};
use adit_wire::device::{self, EnrollReply, EnrollRequest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use tokio::time::timeout;

use crate::control_socket::EnrollCommand;
use crate::dialer::{ConnectError, Dialer};
use crate::state::{Registration, StateDirectory, StateError};

/// How long the edge may take for the answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// The device could not be enrolled. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrollError {
    #[error("this device is enrolled already, at {edge}: to replace its registration, enrol with --force")]
    AlreadyEnrolled { edge: String },
    #[error("cannot make a key")]
    Key,
    #[error(transparent)]
    Trust(#[from] TlsError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the service token is not made of printable characters")]
    Token,
    #[error("the connection broke during enrolment")]
    Broken,
    #[error("the edge did not answer the enrolment in time")]
    Slow,
    #[error("the edge refused the enrolment: {message} (status {status})")]
    Refused { status: StatusCode, message: String },
    #[error("the edge's answer to the enrolment cannot be read")]
    Answer,
    #[error(transparent)]
    State(#[from] StateError),
}

/// TLS of a device with this key. `ca_pem` absent: the system's roots.
pub(crate) fn client_config(
    ca_pem: Option<&str>,
    key: PrivatePkcs8KeyDer<'static>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots: RootCertStore = match ca_pem {
        Some(pem) => tls::roots_from_pem(pem.as_bytes())?,
        None => tls::system_roots()?,
    };
    tls::device_client_config(roots, &PrivateKeyDer::Pkcs8(key), device::ALPN).map(Arc::new)
}

/// Makes a key, has it registered, and only then writes anything.
pub(crate) async fn enroll(
    state: &StateDirectory,
    command: EnrollCommand,
) -> Result<Registration, EnrollError> {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    let key = PrivatePkcs8KeyDer::from(key.map_err(|_| EnrollError::Key)?.as_ref().to_vec());
    let key_pem = pem(key.secret_pkcs8_der());
    let tls = client_config(command.ca_pem.as_deref(), key)?;
    let dialer = Dialer { edge: command.edge.clone(), tls };
    let reply = timeout(DEADLINE, request(&dialer, &command)).await.unwrap_or(Err(EnrollError::Slow))?;
    let who = (reply.registration_id, reply.device_id, reply.user);
    let registration = Registration::new(command.edge, command.ca_pem, who);
    state.enroll(&registration, &key_pem)?;
    Ok(registration)
}

async fn request(dialer: &Dialer, command: &EnrollCommand) -> Result<EnrollReply, EnrollError> {
    let header = |text: &str| {
        let mut value = HeaderValue::from_str(text).map_err(|_| EnrollError::Token)?;
        value.set_sensitive(true);
        Ok::<_, EnrollError>(value)
    };
    let body = serde_json::to_vec(&about_this_device()).expect("a structure of strings");
    let connection = dialer.connect(&dialer.resolve().await?).await?;
    let request = connection
        .request(Method::POST, device::ENROLL_PATH)
        .header(CONTENT_TYPE, "application/json")
        .header(device::CLIENT_ID_HEADER, header(&command.service_token.id)?)
        .header(device::CLIENT_SECRET_HEADER, header(command.service_token.secret())?)
        .body(())
        .map_err(|_| EnrollError::Token)?;
    let (status, mut reader) =
        connection.send(request, Bytes::from(body)).await.map_err(|_| EnrollError::Broken)?;
    let mut answer = Vec::new();
    while let Some(chunk) = reader.read_chunk().await.map_err(|_| EnrollError::Broken)? {
        answer.extend_from_slice(&chunk);
        if answer.len() > device::MAX_ENROLL_BYTES {
            return Err(EnrollError::Answer);
        }
    }
    if status.is_success() {
        serde_json::from_slice(&answer).map_err(|_| EnrollError::Answer)
    } else {
        Err(EnrollError::Refused { status, message: message(&answer) })
    }
}

/// The first error's message of a v4 envelope, cleaned of control characters.
fn message(answer: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        message: String,
    }
    let message = serde_json::from_slice::<Envelope>(answer)
        .ok()
        .and_then(|envelope| envelope.errors.into_iter().next())
        .map(|error| error.message.chars().filter(|c| !c.is_control()).take(500).collect::<String>());
    message.unwrap_or_else(|| "without a reason".to_owned())
}

fn about_this_device() -> EnrollRequest {
    let kernel = |file: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{file}")).unwrap_or_default();
        text.trim().to_owned()
    };
    EnrollRequest {
        name: kernel("hostname"),
        device_type: "linux".to_owned(),
        os_version: kernel("osrelease"),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// *RFC 7468 § 10*.
fn pem(pkcs8: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(pkcs8);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::pem::PemObject;

    #[test]
    fn a_new_key_can_be_used_and_read_back() {
        let key =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
        let read = PrivatePkcs8KeyDer::from_pem_slice(pem(key.as_ref()).as_bytes()).unwrap();
        assert_eq!(read.secret_pkcs8_der(), key.as_ref());
        let ca = rcgen::generate_simple_self_signed(["edge.example.com".to_owned()]).unwrap();
        client_config(Some(&ca.cert.pem()), read).unwrap();
    }

    #[test]
    fn a_refusal_is_told_in_the_edges_words() {
        assert_eq!(message(br#"{"errors":[{"code":1,"message":"unknown\u0007 token"}]}"#), "unknown token");
        assert_eq!(message(b"<html>"), "without a reason");
    }
}
