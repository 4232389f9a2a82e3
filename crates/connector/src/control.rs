//! The connector's end of a connection's control stream: bytes between the stream and the state machine.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::ConnectorConfig;
use crate::process::Process;
use adit_transport::{Duplex, ReadChunk, StreamError, WriteChunk};
use adit_wire::capnp::EncodeError;
use adit_wire::device::{DATAGRAMS_FEATURE, HALF_CLOSE_FEATURE};
use adit_wire::rpc::{
    ClientEvent, ClientInfo, ConnectionDetails, ConnectionError, ConnectionOptions, RegisterRequest,
    RegistrationClient, RpcError, TunnelAuth,
};

/// How long the edge may take to answer a call (contract, 2.2), or to take a message.
pub(crate) const RPC_DEADLINE: Duration = Duration::from_secs(5);

/// The control stream does not do what it is for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The registration was refused.
    #[error("the edge refused the registration")]
    Refused(#[source] ConnectionError),
    /// The call failed.
    #[error("the registration failed: {0}")]
    Failed(String),
    /// No answer came.
    #[error("the edge did not answer within {} s", RPC_DEADLINE.as_secs())]
    TimedOut,
    /// The stream ended.
    #[error("the edge ended the control stream")]
    Ended,
    /// The stream broke.
    #[error("the control stream broke")]
    Broken(#[from] StreamError),
    /// The edge does not speak the protocol.
    #[error("the edge broke the protocol")]
    Rpc(#[from] RpcError),
    /// What we would send is too large.
    #[error("the request cannot be sent")]
    Encode(#[from] EncodeError),
}

/// An open control stream.
#[derive(Debug)]
pub(crate) struct Control<R, W> {
    stream: Duplex<R, W>,
    client: RegistrationClient,
}

impl<R: ReadChunk, W: WriteChunk> Control<R, W> {
    pub(crate) fn new(stream: Duplex<R, W>) -> Self {
        Self { stream, client: RegistrationClient::new() }
    }

    /// Registers the connection.
    pub(crate) async fn register(
        &mut self,
        process: &Process,
        index: u8,
        local: Option<std::net::IpAddr>,
        attempts: u32,
    ) -> Result<ConnectionDetails, ControlError> {
        self.client.register(&request(process, index, local, attempts))?;
        let answer = async {
            loop {
                self.flush().await?;
                match self.client.poll_event() {
                    Some(ClientEvent::Registered(details)) => return Ok(details),
                    Some(ClientEvent::Refused(error)) => return Err(ControlError::Refused(error)),
                    Some(ClientEvent::CallFailed { reason, .. } | ClientEvent::Aborted { reason }) => {
                        return Err(ControlError::Failed(reason));
                    }
                    Some(ClientEvent::Unregistered | ClientEvent::LocalConfigurationReceived) => {}
                    None => self.read().await?,
                }
            }
        };
        tokio::time::timeout(RPC_DEADLINE, answer).await.unwrap_or(Err(ControlError::TimedOut))
    }

    /// Reports the local configuration, for display; the answer is an event.
    pub(crate) fn report(&mut self, config: &serde_json::Value) -> Result<(), ControlError> {
        Ok(self.client.update_local_configuration(config.to_string().as_bytes())?)
    }

    /// Asks for no new flows; the answer is an event.
    pub(crate) fn unregister(&mut self) {
        self.client.unregister();
    }

    /// What the edge said.
    pub(crate) fn poll_event(&mut self) -> Option<ClientEvent> {
        self.client.poll_event()
    }

    /// Takes bytes from the edge; then [`Control::flush`] and [`Control::poll_event`] have work. May be cancelled.
    pub(crate) async fn read(&mut self) -> Result<(), ControlError> {
        match self.stream.reader.read_chunk().await? {
            None => Err(ControlError::Ended),
            Some(chunk) => Ok(self.client.handle_input(&chunk)?),
        }
    }

    /// Ends the conversation as unmodified connectors do (contract, 2.2).
    pub(crate) async fn shutdown(&mut self) {
        self.client.shutdown();
        if let Err(error) = self.flush().await {
            tracing::debug!(error = %error, "control stream could not be shut down");
        }
        // It may have ended already.
        let _ = self.stream.writer.finish().await;
    }

    /// Sends what waits to be sent. Not to be cancelled: a message would be cut.
    pub(crate) async fn flush(&mut self) -> Result<(), ControlError> {
        while let Some(bytes) = self.client.poll_transmit() {
            let sent = tokio::time::timeout(RPC_DEADLINE, self.stream.writer.write_chunk(bytes)).await;
            sent.map_err(|_| ControlError::TimedOut)??;
        }
        Ok(())
    }
}

fn request(process: &Process, index: u8, local: Option<std::net::IpAddr>, attempts: u32) -> RegisterRequest {
    let config = &process.config;
    RegisterRequest {
        auth: TunnelAuth { account_tag: config.account_tag.clone(), secret: config.secret.clone() },
        tunnel: config.tunnel,
        connection_index: index,
        options: ConnectionOptions {
            client: ClientInfo {
                client_id: process.connector,
                features: features(config),
                version: concat!("adit-", env!("CARGO_PKG_VERSION")).to_owned(),
                arch: arch(),
            },
            origin_local_ip: local,
            replace_existing: false,
            compression_quality: 0,
            num_previous_attempts: u8::try_from(attempts).unwrap_or(u8::MAX),
        },
    }
}

/// What is true of this connector.
fn features(config: &ConnectorConfig) -> Vec<String> {
    let always = [
        "allow_remote_config",
        "serialized_headers",
        "support_datagram_v2",
        "support_quic_eof",
        HALF_CLOSE_FEATURE,
        DATAGRAMS_FEATURE,
    ];
    let chosen = config.features.iter().map(String::as_str);
    let post_quantum = config.post_quantum.then_some("postquantum");
    always.into_iter().chain(post_quantum).chain(chosen).map(str::to_owned).collect()
}

/// System and processor by the names that Go has for them.
fn arch() -> String {
    let names =
        BTreeMap::from([("x86_64", "amd64"), ("aarch64", "arm64"), ("x86", "386"), ("macos", "darwin")]);
    let go = |name: &'static str| names.get(name).copied().unwrap_or(name);
    format!("{}_{}", go(std::env::consts::OS), go(std::env::consts::ARCH))
}
