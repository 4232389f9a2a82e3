//! gRPC as far as an engine speaks it with a provider: unary calls, uncompressed, over HTTP/2 on a Unix socket.
//!
//! A call is a POST whose path is service and method; body and answer are one message behind five bytes (a flag for
//! compression, a length), and the outcome is a trailer. What is not built is answered UNIMPLEMENTED, which go-plugin expects
//! of services that it can do without (its broker and its standard streams).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Either, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::protocol::{Empty as Nothing, HealthResponse};
use crate::provider::Provider;

/// The provider's service, whose methods are [`Provider::answer`]'s.
const PROVIDER: &str = "/tfplugin6.Provider/";
/// Largest message, in bytes: as the engine's own limit.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// How long TLS may take with an engine on the same machine.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);
/// How long calls that run may still take when the engine says goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// gRPC's numbers for how a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Ok = 0,
    InvalidArgument = 3,
    Unimplemented = 12,
}

type Body = Either<http_body_util::combinators::WithTrailers<Full<Bytes>, Trailers>, Empty<Bytes>>;
type Trailers = std::future::Ready<Option<Result<HeaderMap, std::convert::Infallible>>>;

/// Serves an engine until `stop`, or until it says goodbye.
pub(super) async fn serve(
    listener: UnixListener,
    tls: Option<TlsAcceptor>,
    provider: Arc<Provider>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                // Without descriptors there is nothing to serve; the engine tries again.
                let Ok((stream, _)) = accepted else { tokio::task::yield_now().await; continue };
                let (tls, provider, stop) = (tls.clone(), Arc::clone(&provider), stop.clone());
                connections.spawn(async move {
                    match tls {
                        None => connection(stream, provider, stop).await,
                        Some(tls) => {
                            let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await;
                            // Whoever has not the engine's key is nobody to talk to.
                            if let Ok(Ok(stream)) = stream {
                                connection(stream, provider, stop).await;
                            }
                        }
                    }
                });
            }
        }
    }
    provider.stop();
    let drained = async { while connections.join_next().await.is_some() {} };
    // Past the deadline the set aborts what is left when it is dropped.
    let _ = tokio::time::timeout(GOODBYE, drained).await;
}

async fn connection<S>(stream: S, provider: Arc<Provider>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let goodbye = stop.clone();
    let service = service_fn(move |request| {
        let (provider, stop) = (Arc::clone(&provider), goodbye.clone());
        async move { Ok::<_, std::convert::Infallible>(call(request, &provider, &stop).await) }
    });
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // An engine that breaks off has nothing more to be told.
        _ = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn call(request: Request<Incoming>, provider: &Provider, stop: &CancellationToken) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let Some(message) = message(request).await else {
        return failed(Code::InvalidArgument, "the message cannot be read");
    };
    if let Some(method) = path.strip_prefix(PROVIDER) {
        return match provider.answer(method, &message).await {
            Ok(Some(answer)) => answered(&answer),
            Ok(None) => failed(Code::Unimplemented, "no such method"),
            Err(_) => failed(Code::InvalidArgument, "the message is none of this method"),
        };
    }
    match path.as_str() {
        "/plugin.GRPCController/Shutdown" => {
            stop.cancel();
            answered(&Nothing {}.encode_to_vec())
        }
        "/grpc.health.v1.Health/Check" => answered(&HealthResponse { status: 1 }.encode_to_vec()),
        _ => failed(Code::Unimplemented, "no such service"),
    }
}

/// The one message of a call.
async fn message(request: Request<Incoming>) -> Option<Bytes> {
    let body = Limited::new(request.into_body(), MAX_MESSAGE_BYTES).collect().await.ok()?;
    unframed(body.to_bytes())
}

fn unframed(mut body: Bytes) -> Option<Bytes> {
    if body.len() < 5 || body.get_u8() != 0 {
        return None;
    }
    let length = usize::try_from(body.get_u32()).ok()?;
    (body.len() == length).then_some(body)
}

fn answered(message: &[u8]) -> Response<Body> {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a provider's answers are below 4 GiB"));
    framed.put_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(Code::Ok as u16));
    let body = Full::new(framed.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    response(Either::Left(body))
}

/// An outcome without a message: its trailers are its headers.
fn failed(code: Code, message: &'static str) -> Response<Body> {
    let mut response = response(Either::Right(Empty::new()));
    response.headers_mut().insert("grpc-status", HeaderValue::from(code as u16));
    response.headers_mut().insert("grpc-message", HeaderValue::from_static(message));
    response
}

fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stands_behind_five_bytes() {
        let body = |bytes: &'static [u8]| unframed(Bytes::from_static(bytes));
        assert_eq!(body(b"\0\0\0\0\x02ab").as_deref(), Some(&b"ab"[..]));
        assert_eq!(body(b"\0\0\0\0\0").as_deref(), Some(&b""[..]));
        for wrong in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x01ab"] {
            assert_eq!(body(wrong), None, "{wrong:?}");
        }
    }
}
