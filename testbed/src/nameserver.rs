//! A small name server on a host, and a client that asks one: to see what is asked and what is answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::net::Namespace;

/// How long a client waits for an answer: longer than a resolver may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// From which number of records on an answer does not fit into a datagram.
const TRUNCATED_FROM: usize = 20;

/// What a name server knows: names, and what stands for them.
pub type Zone = Vec<(&'static str, RData)>;

/// A running name server. It is gone when this is dropped.
#[derive(Debug)]
pub struct NameServer {
    asked: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

impl NameServer {
    /// Serves `zone` at these addresses of a host, over UDP and TCP.
    pub fn start(host: &Namespace, addresses: &[SocketAddr], zone: Zone) -> Result<Self> {
        let (asked, zone) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(zone));
        let mut tasks = JoinSet::new();
        for address in addresses {
            let server = Server { asked: Arc::clone(&asked), zone: Arc::clone(&zone) };
            tasks.spawn(server.clone().datagrams(host.udp(*address)?));
            tasks.spawn(server.streams(host.listen(*address)?));
        }
        Ok(Self { asked, tasks })
    }

    /// Answers nobody any more, once this returns.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    /// What was asked so far, as `NAME TYPE`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug, Clone)]
struct Server {
    asked: Arc<Mutex<Vec<String>>>,
    zone: Arc<Zone>,
}

impl Server {
    async fn datagrams(self, socket: UdpSocket) {
        let mut buffer = vec![0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            if let Some(answer) = self.answer(&buffer[..length], true) {
                // A client that has gone does not wait for it.
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    }

    async fn streams(self, listener: TcpListener) {
        let mut clients = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let server = self.clone();
            clients.spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; usize::from(length)];
                    if stream.read_exact(&mut query).await.is_err() {
                        return;
                    }
                    let Some(answer) = server.answer(&query, false) else { return };
                    let Ok(length) = u16::try_from(answer.len()) else { return };
                    let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
                    if stream.write_all(&framed).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    fn answer(&self, bytes: &[u8], datagram: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(bytes).ok()?;
        let question = query.queries.first()?;
        let name = question.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let asked = format!("{name} {}", question.query_type);
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(question.clone());
        let mut at = name.clone();
        loop {
            let here: Vec<_> = self.zone.iter().filter(|(known, _)| *known == at).collect();
            if here.is_empty() && at == name {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            let wanted = |data: &RData| data.record_type() == question.query_type;
            let found = here.iter().filter(|(_, data)| wanted(data) || matches!(data, RData::CNAME(_)));
            let mut next = None;
            for (known, data) in found {
                answer.add_answer(Record::from_rdata(Name::from_ascii(known).ok()?, 30, data.clone()));
                if let (RData::CNAME(target), false) = (data, wanted(data)) {
                    next = Some(target.0.to_ascii().trim_end_matches('.').to_owned());
                }
            }
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        let answer =
            if datagram && answer.answers.len() >= TRUNCATED_FROM { answer.truncate() } else { answer };
        answer.to_vec().ok()
    }
}

/// A query that knows of EDNS.
pub fn query(name: &str, record_type: RecordType) -> Result<Message> {
    let mut query = Message::query();
    query.metadata.message_type = MessageType::Query;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name)?, record_type));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    query.set_edns(edns);
    Ok(query)
}

/// Asks a resolver from a host, over UDP, and over TCP when the answer says so. Knows of EDNS.
pub async fn ask(
    host: &Namespace,
    resolver: SocketAddr,
    name: &str,
    record_type: RecordType,
) -> Result<Message> {
    let bytes = query(name, record_type)?.to_vec()?;
    let any = if resolver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = host.udp(any.parse()?)?;
    socket.send_to(&bytes, resolver).await?;
    let mut buffer = vec![0; 65_535];
    let received = tokio::time::timeout(ANSWER_LIMIT, socket.recv_from(&mut buffer));
    let (length, _) = received.await.with_context(|| format!("{resolver} does not answer for {name}"))??;
    let answer = Message::from_vec(&buffer[..length])?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = host.connect(resolver).await?;
    let framed = [&u16::try_from(bytes.len())?.to_be_bytes(), bytes.as_slice()].concat();
    stream.write_all(&framed).await?;
    let length = tokio::time::timeout(ANSWER_LIMIT, stream.read_u16()).await??;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(Message::from_vec(&answer)?)
}

/// The addresses of an answer.
pub fn addresses(answer: &Message) -> Vec<IpAddr> {
    answer.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

/// The number of the extended error in an answer (RFC 8914).
pub fn extended_error(answer: &Message) -> Option<u16> {
    use hickory_proto::rr::rdata::opt::EdnsOption;
    let EdnsOption::Unknown(_, bytes) = answer.edns.as_ref()?.option(15.into())? else { return None };
    bytes.first_chunk().map(|two| u16::from_be_bytes(*two))
}
