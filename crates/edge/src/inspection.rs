//! Flows that are looked into: what the client says first decides whether a flow's bytes pass as they are, or whether
//! its TLS is opened and the HTTP inside judged (step 5 of a flow).
//!
//! The flow is decided and dialled already, so that refused looks refused; what waits for the client's first bytes is the
//! rest. [`adit_inspect`] does the opening; here are its two byte streams, its certificates and its questions.

mod gate;
mod leaves;
mod not_http;
mod pinned;
mod requests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_inspect::{Report, Setup, Trust, open_tls, read_http};
use adit_model::{FirstBytes, FlowEnd, FlowFacts, InspectionRecord, NonHttpTls, Party, Refusal};
use adit_policy::{PassReason, Treatment};
use adit_transport::splice::{HalfClose, Passed, SpliceEnd, splice};
use adit_transport::{Duplex, ReadChunk, WriteChunk, io, tls};
use rustls::RootCertStore;
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Shared;
use crate::dial::Dialled;
use crate::first_bytes::{Ahead, read_ahead};
use gate::FlowGate;
pub(crate) use leaves::Leaves;
pub(crate) use not_http::NotHttp;
pub(crate) use pinned::Pinned;

/// A flow to be looked into.
#[derive(Clone, Copy)]
pub(crate) struct Looked<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) facts: &'a FlowFacts,
    pub(crate) party: &'a Arc<Party>,
    /// What was dialled.
    pub(crate) destination: SocketAddr,
}

/// What became of a flow that was looked into.
#[derive(Default)]
pub(crate) struct Inspected {
    pub(crate) passed: Passed,
    pub(crate) record: Option<InspectionRecord>,
}

/// Carries a flow whose device has been told that it is connected. `None` if it was cut.
pub(crate) async fn carry<R, W>(
    looked: Looked<'_>,
    near: Duplex<R, W>,
    dialled: Dialled,
    ended: &CancellationToken,
    inspected: &mut Inspected,
) -> Option<FlowEnd>
where
    R: ReadChunk,
    W: WriteChunk,
{
    let Dialled { via, stream: mut far } = dialled;
    let (first, mut near) = match ended.run_until_cancelled(read_ahead(near)).await {
        Some(Some(read)) => read,
        Some(None) => {
            far.reset();
            return Some(FlowEnd::ResetByDevice);
        }
        None => {
            far.reset();
            return None;
        }
    };
    let snapshot = looked.shared.snapshots.current();
    let mut treatment = snapshot.treatment(looked.facts, &first);
    let mut found = record(treatment, &first);
    if treatment == Treatment::OpenTls
        && snapshot.gateway_settings(looked.facts.account).non_http_tls == NonHttpTls::Passthrough
        && looked.shared.not_http.knows(looked.facts, &first)
    {
        treatment = Treatment::Pass(PassReason::NotHttp);
        found.treatment = "not-http-before";
    }
    drop(snapshot);
    inspected.record = Some(found);
    if let Treatment::Pass(PassReason::Rule(rule)) = treatment {
        requests::record_bypass(looked, rule, &first);
    }
    let treating = treat(looked, treatment, first, &mut near, (&mut far, via.half_close()), inspected);
    let end = ended.run_until_cancelled(treating).await;
    if end.is_none() {
        near.reset();
        far.reset();
    }
    end
}

async fn treat<R, W, FR, FW>(
    looked: Looked<'_>,
    treatment: Treatment,
    first: FirstBytes,
    near: &mut Duplex<Ahead<R>, W>,
    (far, half_close): (&mut Duplex<FR, FW>, HalfClose),
    inspected: &mut Inspected,
) -> FlowEnd
where
    R: ReadChunk,
    W: WriteChunk,
    FR: ReadChunk,
    FW: WriteChunk,
{
    match treatment {
        Treatment::Pass(_) => spliced(&splice(near, far, half_close, &mut inspected.passed).await),
        Treatment::Refuse => {
            near.reset();
            far.reset();
            FlowEnd::Refused(Refusal::Blocked)
        }
        Treatment::OpenTls | Treatment::ReadHttp => {
            let opening = Opening { looked, first, is_tls: treatment == Treatment::OpenTls };
            opening.run(near, (far, half_close), inspected).await
        }
    }
}

fn spliced(end: &SpliceEnd) -> FlowEnd {
    match end {
        SpliceEnd::Finished => FlowEnd::Finished,
        SpliceEnd::NearFailed(_) => FlowEnd::ResetByDevice,
        SpliceEnd::FarFailed(_) => FlowEnd::ResetByDestination,
    }
}

/// What is recorded of how a flow is treated.
pub(crate) fn record(treatment: Treatment, first: &FirstBytes) -> InspectionRecord {
    let (treatment, rule) = match treatment {
        Treatment::Pass(PassReason::Rule(rule)) => ("bypassed", Some(rule)),
        Treatment::Pass(PassReason::NotHttp) => ("not-http", None),
        Treatment::Pass(PassReason::NotAsked | PassReason::NotRecognised) => ("passed", None),
        Treatment::OpenTls => ("opened", None),
        Treatment::ReadHttp => ("read", None),
        Treatment::Refuse => ("refused", None),
    };
    InspectionRecord {
        treatment,
        rule,
        server_name: first.server_name.clone(),
        protocol: first.protocol,
        validation: None,
        wants_certificate: false,
        error: None,
        client: None,
        origin: None,
    }
}

/// A connection whose content is judged.
struct Opening<'a> {
    looked: Looked<'a>,
    first: FirstBytes,
    is_tls: bool,
}

impl Opening<'_> {
    /// Joins the flow's two streams and the judge between them by two pipes.
    async fn run<R, W, FR, FW>(
        self,
        near: &mut Duplex<Ahead<R>, W>,
        (far, half_close): (&mut Duplex<FR, FW>, HalfClose),
        inspected: &mut Inspected,
    ) -> FlowEnd
    where
        R: ReadChunk,
        W: WriteChunk,
        FR: ReadChunk,
        FW: WriteChunk,
    {
        let (client, near_pipe) = tokio::io::duplex(PIPE_BYTES);
        let (origin, far_pipe) = tokio::io::duplex(PIPE_BYTES);
        let (mut near_pipe, mut far_pipe) = (io::duplex(near_pipe), io::duplex(far_pipe));
        let mut passed_far = Passed::default();
        let tasks = TaskTracker::new();
        // The judge works beside those who carry, on another core where there is one. What follows an upgrade runs on in a
        // task of its own, which holds the pipes.
        // It is joined also when the flow is cut.
        let shared = Arc::clone(self.looked.shared);
        let (facts, first) = (self.looked.facts, self.first.clone());
        let judge = tasks.spawn(self.judge(client, origin, tasks.clone()));
        let (reports, judging) = tokio::sync::oneshot::channel();
        shared.tasks.spawn(async move {
            let report = judge.await.unwrap_or_else(|error| {
                tracing::error!(error = %error, "the judge of an inspected flow failed");
                Report::default()
            });
            tasks.close();
            tasks.wait().await;
            // Nobody waits for the report of a flow that was cut.
            let _ = reports.send(report);
        });
        let carrying = async {
            tokio::join!(
                splice(near, &mut near_pipe, HalfClose::Kept, &mut inspected.passed),
                splice(&mut far_pipe, far, half_close, &mut passed_far),
            )
        };
        let (mut carrying, mut judging) = (std::pin::pin!(carrying), std::pin::pin!(judging));
        let (ends, report) = tokio::select! {
            ends = carrying.as_mut() => (Some(ends), judging.await),
            report = judging.as_mut() => {
                // The pipes are closed; the ends have a while to notice.
                (tokio::time::timeout(LINGER, carrying).await.ok(), report)
            }
        };
        let report = report.unwrap_or_default();
        if report.not_http {
            shared.not_http.note(facts, &first);
        }
        let end = end_of(&report, ends.as_ref().map(|(near, _)| near));
        if end == FlowEnd::ClientTlsError {
            shared.pinned.note(facts, &first);
            shared.metrics.hosts_look_pinned(shared.pinned.count());
        }
        if let Some(record) = &mut inspected.record {
            complete(record, report);
        }
        end
    }

    fn judge(
        self,
        client: DuplexStream,
        origin: DuplexStream,
        tasks: TaskTracker,
    ) -> impl Future<Output = Report> + Send + 'static {
        let looked = self.looked;
        let Looked { shared, facts, party, destination } = looked;
        let trust = Trust {
            provider: shared.leaves.provider(),
            roots: shared.leaves.roots(),
            added: Arc::new(added_roots(looked, &self.first)),
        };
        let setup = Setup { trust, destination, tasks };
        let gate =
            Arc::new(FlowGate::new(Arc::clone(shared), facts.clone(), Arc::clone(party), self.first.clone()));
        let Self { first, is_tls, .. } = self;
        async move {
            if is_tls {
                open_tls(client, origin, &first, setup, gate).await
            } else {
                read_http(client, origin, &first, setup, gate).await
            }
        }
    }
}

/// The authorities that the account trusts this origin by, beside the system's.
fn added_roots(looked: Looked<'_>, first: &FirstBytes) -> RootCertStore {
    let snapshot = looked.shared.snapshots.current();
    let mut added = RootCertStore::empty();
    for pem in snapshot.origin_roots(looked.facts, first.server_name.as_deref()) {
        match tls::roots_from_pem(pem.as_bytes()) {
            Ok(roots) => added.extend(roots.roots),
            Err(error) => {
                tracing::warn!(account = %looked.facts.account, error = %error, "an added authority cannot be used");
            }
        }
    }
    added
}

/// What the device saw decides: between judge and origin a connection is closed as it comes.
fn end_of(report: &Report, near: Option<&SpliceEnd>) -> FlowEnd {
    match (report, near) {
        (Report { client_error: Some(_), .. }, _) => FlowEnd::ClientTlsError,
        (_, Some(near)) => spliced(near),
        // It ended, and an end that had nothing more to say did not notice.
        (_, None) => FlowEnd::Finished,
    }
}

fn complete(record: &mut InspectionRecord, report: Report) {
    record.validation = report.validation.map(adit_inspect::Validation::as_str);
    record.wants_certificate = report.wants_certificate;
    (record.client, record.origin) = (report.client, report.origin);
    record.error = report.client_error.or(report.origin_error);
}

/// What a pipe between a stream and its judge holds, in bytes.
const PIPE_BYTES: usize = 256 << 10;
/// For the ends of a connection to close after its judge has.
const LINGER: Duration = Duration::from_secs(2);
