//! An S3 service in the process of the test, over a folder.

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http_body_util::StreamBody;
use hyper::Request;
use hyper::body::{Frame, Incoming};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse, StdError};
use s3s_fs::FileSystem;

pub const ACCESS_KEY_ID: &str = "AKIDTEST";
pub const SECRET_ACCESS_KEY: &str = "secret-of-the-test";

/// Serves `folder`, whose sub-folders are the buckets, until the process ends, and returns the end point.
pub fn serve(folder: &Path) -> String {
    serve_with_faults(folder, 0, 0.0)
}

/// The same, with faults: that share of the requests is refused with 429, 500 or 503, is answered late, is done and then
/// not answered, or is answered with a body that is cut short. The seed decides which and how.
pub fn serve_with_faults(folder: &Path, seed: u64, share: f64) -> String {
    let files = FileSystem::new(folder).expect("the folder exists");
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
    let service = Faulty {
        inner: service.build(),
        share,
        random: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
        conditional: Arc::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("non-blocking");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    // A client that goes away is no concern of the test.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
    });
    format!("http://{address}")
}

/// A service whose answers go wrong now and then.
#[derive(Clone)]
struct Faulty {
    inner: S3Service,
    share: f64,
    random: Arc<Mutex<StdRng>>,
    /// The server beneath looks whether an object exists, and writes it later: of two conditional puts at the same time both would succeed.
    conditional: Arc<tokio::sync::Mutex<()>>,
}

impl Service<Request<Incoming>> for Faulty {
    type Response = HttpResponse;
    type Error = HttpError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let fault = {
            let mut random = self.random.lock().expect("no other thread panics");
            random.random_bool(self.share).then(|| random.random_range(0..6))
        };
        let (service, conditional) = (self.inner.clone(), Arc::clone(&self.conditional));
        Box::pin(async move {
            let answer = async move {
                let is_conditional = request.headers().contains_key("if-none-match");
                let _one_at_a_time = if is_conditional { Some(conditional.lock().await) } else { None };
                service.call(request.map(Body::from)).await
            };
            match fault {
                Some(refused @ 0..3) => Ok(status([429, 500, 503][refused])),
                Some(3) => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    answer.await
                }
                Some(4) => {
                    answer.await?;
                    Err(HttpError::new("the answer is lost".into()))
                }
                Some(_) => answer.await.map(cut),
                None => answer.await,
            }
        })
    }
}

fn status(code: u16) -> HttpResponse {
    let mut answer = HttpResponse::new(Body::empty());
    *answer.status_mut() = hyper::StatusCode::from_u16(code).expect("a status");
    answer
}

/// The answer with a body that ends in the middle and leaves its announced length unmet.
fn cut(answer: HttpResponse) -> HttpResponse {
    let (head, body) = answer.into_parts();
    let mut left: usize =
        head.headers.get("content-length").and_then(|text| text.to_str().ok()?.parse().ok()).unwrap_or(2) / 2;
    let bytes = body.map(move |bytes| -> Result<Bytes, StdError> {
        let bytes = bytes?;
        left = left.checked_sub(bytes.len()).ok_or("the body is cut")?;
        Ok(bytes)
    });
    HttpResponse::from_parts(head, Body::http_body_unsync(StreamBody::new(bytes.map_ok(Frame::data))))
}

/// The variables with which stores reach the service.
pub fn variables(endpoint: &str) -> Vec<(String, String)> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ("AWS_REGION", "us-east-1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}
