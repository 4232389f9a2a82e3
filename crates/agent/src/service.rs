//! The agent as a service: one thread that obeys the control socket and keeps the session that was asked for.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use adit_model::ExplainQuestion;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::choice::{Choice, TransportSetting};
use crate::control_socket::{ControlSocket, Done, EnrollCommand, Order, Request, SocketError};
use crate::dialer::Dialer;
use crate::edges::Edges;
use crate::enroll::{EnrollError, client_config, enroll};
use crate::explain::explain;
use crate::memory;
use crate::names::{self, Fallback, SystemDns};
use crate::network::Networks;
use crate::proxy::{Proxy, ProxyAddress, ProxyError};
use crate::session::{ENROLMENT_SPREADS, Session, SessionEnd, chain};
use crate::slot::CarrierSlot;
use crate::state::{Registration, StateDirectory, StateError};
use crate::status::{ConnectionState, Status};
use crate::tun::{Tun, TunError};

/// Orders that wait while one is carried out.
const MAX_ORDERS: usize = 16;

/// How an agent runs.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The state directory; made if it is missing.
    pub state: PathBuf,
    /// Name of the TUN interface, by default [`AgentConfig::DEFAULT_INTERFACE`].
    pub interface: String,
    /// MTU of the TUN interface in bytes, by default [`AgentConfig::DEFAULT_MTU`].
    pub mtu: u32,
    /// Where programs come that know proxies. Then there is no interface, and no need of a right to make one.
    pub proxy: Option<ProxyAddress>,
    /// Which carriers may be used, by default both.
    pub transport: TransportSetting,
    /// Whether the system is pointed to the agent's resolver, by default not.
    pub dns: SystemDns,
    /// Whose names are resolved outside of the edge.
    pub fallbacks: Vec<Fallback>,
}

impl AgentConfig {
    /// Name of the TUN interface.
    pub const DEFAULT_INTERFACE: &'static str = "adit0";
    /// Larger than any link's, since no packet leaves the host: segments of up to 64 KiB cross the interface whole. It is
    /// a multiple of 8 with room for every header.
    pub const DEFAULT_MTU: u32 = 65520;

    /// The defaults, with this state directory.
    pub fn new(state: PathBuf) -> Self {
        let interface = Self::DEFAULT_INTERFACE.to_owned();
        let transport = TransportSetting::default();
        Self {
            state,
            interface,
            mtu: Self::DEFAULT_MTU,
            proxy: None,
            transport,
            dns: SystemDns::Off,
            fallbacks: Vec::new(),
        }
    }
}

/// The agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The TUN interface.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The proxy's port.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The thread or its runtime.
    #[error("cannot start the agent's thread")]
    Thread(#[source] std::io::Error),
    /// A bug.
    #[error("the agent's thread ended in a panic")]
    Panicked,
}

/// Runs an agent until `stop` is cancelled. It takes a thread of its own; this future only waits for it.
///
/// # Errors
/// What keeps it from starting; once it runs, everything else is in its status.
pub async fn run(config: AgentConfig, stop: CancellationToken) -> Result<(), RunError> {
    let (report, done) = oneshot::channel();
    let stop = stop.child_token();
    let thread_stop = stop.clone();
    // If this future is dropped, nobody else stops the thread.
    let _guard = stop.drop_guard();
    let thread = std::thread::Builder::new().name("adit-agent".to_owned()).spawn(move || {
        let result = serve_on_this_thread(config, thread_stop);
        // Nobody waits any more if the future was dropped.
        let _ = report.send(result);
    });
    let thread = thread.map_err(RunError::Thread)?;
    let result = done.await.unwrap_or(Err(RunError::Panicked));
    // It has reported, so it is at its end.
    let _ = thread.join();
    result
}

fn serve_on_this_thread(config: AgentConfig, stop: CancellationToken) -> Result<(), RunError> {
    memory::tune_allocator();
    memory::avoid_huge_pages();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Thread)?;
    let local = LocalSet::new();
    let result = local.block_on(&runtime, Service::start_and_run(config, stop));
    drop(local);
    runtime.shutdown_background();
    result
}

struct Service {
    config: AgentConfig,
    state: Rc<StateDirectory>,
    status: watch::Sender<Status>,
    carrier: CarrierSlot<Rc<Choice>>,
    session: Option<(CancellationToken, JoinHandle<SessionEnd>)>,
}

impl Service {
    async fn start_and_run(config: AgentConfig, stop: CancellationToken) -> Result<(), RunError> {
        let state = Rc::new(StateDirectory::open(&config.state)?);
        names::system::recover(&state);
        // What would fail at the first connection fails now, where somebody looks.
        let proxy = if let Some(address) = config.proxy {
            Some(Proxy::bind(address).await?)
        } else {
            drop(Tun::open(&config.interface)?);
            None
        };
        let enrolled = state.registration()?;
        let socket = ControlSocket::bind(state.socket())?;
        let (orders, mut received) = mpsc::channel(MAX_ORDERS);
        let address = proxy.as_ref().and_then(Proxy::address).map(|address| address.to_string());
        let status = watch::Sender::new(Status { proxy: address, ..Status::default() });
        let carrier = watch::Sender::new(None);
        let mut service = Self { config, state, status, carrier, session: None };
        if let Some((registration, _)) = enrolled {
            service.describe(&registration, ConnectionState::Disconnected);
            if !service.state.is_disconnected() {
                service.begin_session(None)?;
            }
        }
        tracing::info!(state = %service.config.state.display(), "agent is running");
        let clients = socket.serve(service.status.subscribe(), orders);
        let (carrier, status) = (service.carrier.subscribe(), service.status.subscribe());
        let programs = async {
            match proxy {
                Some(proxy) => proxy.serve(carrier, status).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = clients => {}
            () = programs => {}
            () = service.obey(&mut received) => {}
            () = stop.cancelled() => {}
        }
        service.end_session().await;
        tracing::info!("agent has stopped");
        Ok(())
    }

    /// Carries out orders, and notices when the session ends by itself.
    async fn obey(&mut self, orders: &mut mpsc::Receiver<Order>) {
        loop {
            tokio::select! {
                order = orders.recv() => {
                    let Some((request, report)) = order else { return };
                    if let Request::Explain(question) = request {
                        self.explain(question, report);
                        continue;
                    }
                    let result = self.carry_out(request).await.map(|()| Done::CarriedOut);
                    // A client that has gone does not wait for it.
                    let _ = report.send(result);
                }
                end = ended(&mut self.session) => {
                    self.session = None;
                    self.session_ended(end);
                }
            }
        }
    }

    async fn carry_out(&mut self, request: Request) -> Result<(), String> {
        match request {
            Request::Enroll(command) => self.enroll(command).await.map_err(|error| chain(&error)),
            Request::Connect => self.connect().map_err(|error| chain(&error)),
            Request::Disconnect => self.disconnect().await.map_err(|error| chain(&error)),
            Request::Status | Request::Explain(_) => Ok(()),
        }
    }

    /// Asks the edge beside all else: an answer may take as long as a dial.
    fn explain(&self, question: ExplainQuestion, report: oneshot::Sender<Result<Done, String>>) {
        let dialer = match self.dialer() {
            Ok(dialer) => dialer,
            Err(error) => {
                let _ = report.send(Err(error));
                return;
            }
        };
        tokio::task::spawn_local(async move {
            let explained = explain(&dialer, &question).await.map_err(|error| chain(&error));
            let _ = report.send(explained.map(|explained| Done::Explained(Box::new(explained))));
        });
    }

    /// What dials the edge in use with the device's key.
    fn dialer(&self) -> Result<Dialer, String> {
        let registration = self.state.registration().map_err(|error| chain(&error))?;
        let (registration, key) = registration.ok_or_else(|| chain(&ConnectOrderError::NotEnrolled))?;
        let tls = client_config(registration.ca_pem.as_deref(), key).map_err(|error| chain(&error))?;
        Ok(Dialer { edge: Edges::load(Rc::clone(&self.state), registration.edge).current(), tls })
    }

    async fn enroll(&mut self, command: EnrollCommand) -> Result<(), EnrollError> {
        let revoked = self.status.borrow().state == ConnectionState::ReauthRequired;
        if let Some((registration, _)) = self.state.registration()?
            && !command.force
            && !revoked
        {
            return Err(EnrollError::AlreadyEnrolled { edge: registration.edge.to_string() });
        }
        let registration = enroll(&self.state, command).await?;
        tracing::info!(edge = %registration.edge, device_id = %registration.device_id, "enrolled");
        self.end_session().await;
        self.describe(&registration, ConnectionState::Disconnected);
        Ok(self.begin_session(Some(Instant::now() + ENROLMENT_SPREADS))?)
    }

    fn connect(&mut self) -> Result<(), ConnectOrderError> {
        if self.state.registration()?.is_none() {
            return Err(ConnectOrderError::NotEnrolled);
        }
        self.state.set_disconnected(false)?;
        if self.session.is_none() {
            self.begin_session(None)?;
        }
        Ok(())
    }

    async fn disconnect(&mut self) -> Result<(), StateError> {
        self.state.set_disconnected(true)?;
        self.end_session().await;
        self.status.send_modify(|status| {
            if status.state != ConnectionState::NotEnrolled {
                status.state = ConnectionState::Disconnected;
                status.last_error = None;
            }
        });
        Ok(())
    }

    fn begin_session(&mut self, new_until: Option<Instant>) -> Result<(), StateError> {
        let Some((registration, key)) = self.state.registration()? else { return Ok(()) };
        let tls = match client_config(registration.ca_pem.as_deref(), key) {
            Ok(tls) => tls,
            Err(error) => {
                self.status.send_modify(|status| status.last_error = Some(chain(&error)));
                return Ok(());
            }
        };
        let stop = CancellationToken::new();
        let session = Session {
            tls,
            edges: Rc::new(Edges::load(Rc::clone(&self.state), registration.edge)),
            state: Rc::clone(&self.state),
            dns: self.config.dns,
            fallbacks: self.config.fallbacks.clone(),
            carrier: self.carrier.clone(),
            interface: self.config.proxy.is_none().then(|| self.config.interface.clone()),
            mtu: self.config.mtu,
            transport: self.config.transport,
            networks: RefCell::new(Networks::load(Rc::clone(&self.state))),
            blocks: RefCell::default(),
            status: self.status.clone(),
            stop: stop.clone(),
            new_until,
        };
        self.status.send_modify(|status| {
            status.state = ConnectionState::Connecting;
            status.last_error = None;
        });
        self.session = Some((stop, tokio::task::spawn_local(session.run())));
        Ok(())
    }

    /// Ends the session, if there is one, and waits until interface and routes are gone.
    async fn end_session(&mut self) {
        let Some((stop, task)) = self.session.take() else { return };
        stop.cancel();
        if let Err(error) = task.await {
            tracing::error!(%error, "the session failed");
        }
    }

    fn session_ended(&self, end: SessionEnd) {
        let state = match end {
            SessionEnd::Stopped | SessionEnd::Superseded => ConnectionState::Disconnected,
            SessionEnd::Revoked => ConnectionState::ReauthRequired,
        };
        tracing::warn!(?end, "the session has ended");
        self.status.send_modify(|status| status.state = state);
    }

    fn describe(&self, registration: &Registration, state: ConnectionState) {
        self.status.send_modify(|status| {
            *status = Status {
                state,
                device_id: Some(registration.device_id.to_string()),
                user: Some(registration.user.clone()),
                edge: Some(registration.edge.to_string()),
                proxy: status.proxy.take(),
                ..Status::default()
            };
        });
    }
}

#[derive(Debug, thiserror::Error)]
enum ConnectOrderError {
    #[error("this device is not enrolled: use `adit agent enroll` first")]
    NotEnrolled,
    #[error(transparent)]
    State(#[from] StateError),
}

async fn ended(session: &mut Option<(CancellationToken, JoinHandle<SessionEnd>)>) -> SessionEnd {
    match session {
        Some((_, task)) => match task.await {
            Ok(end) => end,
            Err(error) => {
                tracing::error!(%error, "the session failed");
                SessionEnd::Stopped
            }
        },
        None => std::future::pending().await,
    }
}
