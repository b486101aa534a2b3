//! The endpoint's calls over HTTP: the protocol for boxes, an API with a token for operators, the page, and counts.
//!
//! Signatures are checked where a call arrives; what writes is gathered for one thread that commits, and calls that wait,
//! for a commit or for an operator, hold no thread. The operator's token comes in the `Authorization` header alone, never in a cookie, so no other site's page can use it.

use crate::enroll::claim::{ENROLL, HELLO, REENROLL};
use crate::enroll::{DeviceId, MAX_BODY};
use crate::fleet::Store;
use crate::fleet::exchange::{Begun, Request};
use crate::fleet::metrics::Metrics;
use crate::fleet::operator::{self, Order, Wanted};
use crate::fleet::page;
use crate::fleet::service::Service;
use crate::host::clock;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// Calls that are worked on at a time: as many share a commit at most.
const AT_WORK: usize = 512;
/// How long a call waits for its turn before it is sent away.
const TURN: Duration = Duration::from_secs(10);
/// How long a body may take to arrive.
const BODY: Duration = Duration::from_secs(20);
/// Sent away for that many seconds and up to twice as many.
const AWAY_S: u32 = 15;

/// What the calls share.
pub struct Endpoint {
    /// The protocol's logic.
    pub service: Service,
    /// What was counted.
    pub metrics: Metrics,
    /// Calls that are held open, by device.
    waiting: Mutex<HashMap<DeviceId, Vec<oneshot::Sender<()>>>>,
    token: aws_lc_rs::hmac::Key,
    token_tag: Vec<u8>,
    work: Semaphore,
    writer: Writer,
    tell: Box<dyn Fn(&str) + Send + Sync>,
}

impl Endpoint {
    /// The endpoint of `service`, whose operators know `token`; `tell` gets what goes wrong.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        service: Service,
        token: &str,
        tell: Box<dyn Fn(&str) + Send + Sync>,
    ) -> anyhow::Result<Arc<Endpoint>> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("asking the system for randomness: {e}"))?;
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &random);
        let token_tag = aws_lc_rs::hmac::sign(&key, token.as_bytes()).as_ref().to_vec();
        let writer = Writer::start(service.store().clone())?;
        Ok(Arc::new(Endpoint {
            service,
            metrics: Metrics::default(),
            waiting: Mutex::default(),
            token: key,
            token_tag,
            work: Semaphore::new(AT_WORK),
            writer,
            tell,
        }))
    }

    /// Answers the calls that wait for one of `devices`, or for any.
    pub fn wake(&self, devices: &[DeviceId], any: bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = |calls: Vec<oneshot::Sender<()>>| {
            for call in calls {
                let _ = call.send(()); // the box may have gone
            }
        };
        if any {
            waiting.drain().for_each(|(_, calls)| answer(calls));
            return;
        }
        for device in devices {
            waiting.remove(device).into_iter().for_each(answer);
        }
        waiting.retain(|_, calls| {
            calls.retain(|call| !call.is_closed());
            !calls.is_empty()
        });
    }

    /// Says what a person at the endpoint should know.
    pub fn tell(&self, words: &str) {
        (self.tell)(words);
    }

    fn waiting(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
    }

    fn wait_for(&self, device: DeviceId) -> oneshot::Receiver<()> {
        let (call, woken) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).entry(device).or_default().push(call);
        woken
    }

    /// Whether the headers bring the operator's token. Tags are compared, so that time tells nothing of the token.
    fn is_operator(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let given = given.and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default();
        aws_lc_rs::hmac::verify(&self.token, given.as_bytes(), &self.token_tag).is_ok()
    }
}

/// The thread that commits what calls have gathered. Ends with the value.
struct Writer {
    thread: Option<std::thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    fn start(store: Arc<Store>) -> std::io::Result<Writer> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("commits".into()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                store.commit();
                // What was gathered since has left a token, with which this returns at once.
                std::thread::park();
            }
        })?;
        Ok(Writer { thread: Some(thread), stop })
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// All calls.
pub fn router(endpoint: Arc<Endpoint>) -> Router {
    Router::new()
        .route(HELLO, get(protocol))
        .route(ENROLL, post(protocol))
        .route(REENROLL, post(protocol))
        .route(&format!("{ENROLL}/{{*rest}}"), get(protocol).post(protocol))
        .route("/", get(|| async { page::respond() }))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .route("/api/v1/devices", get(devices))
        .route("/api/v1/devices/{name}", get(device))
        .route("/api/v1/orders", post(order))
        .layer(DefaultBodyLimit::disable()) // read with a bound and a deadline of our own
        .with_state(endpoint)
}

type End = State<Arc<Endpoint>>;

async fn protocol(State(end): End, method: Method, uri: Uri, body: Body) -> Response {
    let body = match read(body).await {
        Ok(body) => body,
        Err(status) => return status.into_response(),
    };
    let request = Request {
        method: method.to_string(),
        path: uri.path().into(),
        query: uri.query().unwrap_or_default().into(),
        body: body.into(),
    };
    let call = call_name(&request);
    // Registered before the first look, so that no change falls between.
    let woken = (call == "standing" && request.query.contains("wait="))
        .then(|| request.path.rsplit('/').next()?.parse().ok())
        .flatten()
        .map(|device| end.wait_for(device));
    let request = Arc::new(request);
    let mut answer = match handle(&end, &request, call).await {
        Ok(answer) => answer,
        Err(away) => return away,
    };
    if let (Some((_, seconds)), Some(woken)) = (&answer.hold, woken) {
        // However it ends: by a change, by time, or because the endpoint stops.
        let _ = tokio::time::timeout(Duration::from_secs(u64::from(*seconds)), woken).await;
        answer = match handle(&end, &request, call).await {
            Ok(answer) => answer,
            Err(away) => return away,
        };
    }
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, answer.body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = answer.retry_after_s {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

async fn handle(
    end: &Arc<Endpoint>,
    request: &Arc<Request>,
    call: &'static str,
) -> Result<crate::fleet::Response, Response> {
    let start = Instant::now();
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN, end.work.acquire()).await else {
        end.metrics.request(call, 503, start.elapsed());
        return Err(away());
    };
    let now = clock::now();
    let begun = if call == "grant" {
        // What is in a grant may come from elsewhere, and take its time.
        let (there, request) = (end.clone(), request.clone());
        match tokio::task::spawn_blocking(move || there.service.begin(&request, now)).await {
            Ok(begun) => begun,
            Err(panicked) => {
                end.tell(&format!("a call to {call} ended in a bug: {panicked}"));
                return Err(away());
            }
        }
    } else {
        // Signatures: a few tenths of a millisecond, less than handing them to another thread and back would disturb.
        end.service.begin(request, now)
    };
    let answer = match begun {
        Begun::Answered(answer) => answer,
        Begun::Write(work) => {
            let (done, outcome) = oneshot::channel();
            end.service.store().gather(work, move |result| drop(done.send(result)));
            end.writer.wake();
            let Ok(outcome) = outcome.await else { return Err(away()) }; // the endpoint stops
            end.service.end(request, outcome, now)
        }
    };
    if let Some(trouble) = &answer.trouble {
        end.tell(trouble);
    }
    end.metrics.request(call, answer.status, start.elapsed());
    Ok(answer)
}

/// Sends a call away unsigned: a device takes it for a network in trouble and comes again.
fn away() -> Response {
    let mut random = [0; 4];
    let _ = getrandom::fill(&mut random); // without it, all come back after the same time
    let seconds = AWAY_S + u32::from_le_bytes(random) % AWAY_S;
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, seconds.to_string())], "too many at once\n")
        .into_response()
}

async fn read(body: Body) -> Result<Bytes, StatusCode> {
    match tokio::time::timeout(BODY, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

fn call_name(request: &Request) -> &'static str {
    match request.path.as_str() {
        HELLO => "hello",
        ENROLL | REENROLL => "claim",
        path => match path.rsplit('/').next() {
            Some("grant") => "grant",
            Some("ack") => "ack",
            Some("events") => "events",
            _ => "standing",
        },
    }
}

async fn health(State(end): End) -> Response {
    let looked = tokio::task::spawn_blocking(move || end.service.changes(i64::MAX)).await;
    match looked {
        Ok(Ok(_)) => "ok\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response(),
    }
}

async fn metrics(State(end): End) -> Response {
    let text = tokio::task::spawn_blocking(move || end.metrics.render(&end.service, end.waiting())).await;
    match text {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn devices(State(end): End, headers: HeaderMap, Query(wanted): Query<Wanted>) -> Response {
    operate(end, &headers, move |end| operator::list(end.service.store(), &wanted, clock::now())).await
}

async fn device(State(end): End, headers: HeaderMap, Path(name): Path<String>) -> Response {
    operate(end, &headers, move |end| operator::show(end.service.store(), &name)).await
}

async fn order(State(end): End, headers: HeaderMap, body: Body) -> Response {
    let body = match read(body).await {
        Ok(body) => body,
        Err(status) => return status.into_response(),
    };
    operate(end, &headers, move |end| {
        let order: Order = serde_json::from_slice(&body)?;
        let done = operator::carry_out(end.service.store(), order, "operator (page)", clock::now())?;
        Ok(serde_json::json!({ "done": done }))
    })
    .await
}

/// Does an operator's work, when the headers say that it is one.
async fn operate<T: serde::Serialize + Send + 'static>(
    end: Arc<Endpoint>,
    headers: &HeaderMap,
    work: impl FnOnce(&Endpoint) -> anyhow::Result<T> + Send + 'static,
) -> Response {
    let told = |status: StatusCode, value: serde_json::Value| {
        let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
        (status, headers, value.to_string()).into_response()
    };
    if !end.is_operator(headers) {
        return told(
            StatusCode::UNAUTHORIZED,
            serde_json::json!({ "error": "the operator's token is needed" }),
        );
    }
    let done =
        tokio::task::spawn_blocking(move || Ok::<_, anyhow::Error>(serde_json::to_value(work(&end)?)?));
    match done.await {
        Ok(Ok(value)) => told(StatusCode::OK, value),
        Ok(Err(error)) => told(StatusCode::CONFLICT, serde_json::json!({ "error": format!("{error:#}") })),
        Err(_) => {
            told(StatusCode::INTERNAL_SERVER_ERROR, serde_json::json!({ "error": "a bug at the endpoint" }))
        }
    }
}
