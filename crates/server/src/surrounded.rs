//! What happens around every request, whatever its route.

use std::convert::Infallible;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};

use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::serve::Service;
use crate::{guard, telemetry};

/// A route with what surrounds every one. From the outside in: the request is observed, guarded, and a panic over it is caught.
#[derive(Clone)]
pub struct Surrounded<S> {
    /// The route.
    pub inner: S,
    /// What surrounds it needs this.
    pub service: Service,
}

impl<S> tower::Service<Request> for Surrounded<S>
where
    S: tower::Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The one that said that it is ready.
        let next = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, next);
        let service = self.service.clone();
        Box::pin(async move {
            let matched = request.extensions().get::<MatchedPath>().cloned();
            let answer = async |request| {
                guard::guard(&service, request, async |request| {
                    let answered = AssertUnwindSafe(inner.call(request)).catch_unwind().await;
                    answered.map_or_else(guard::panicked, |answer| answer.unwrap_or_else(|never| match never {}))
                })
                .await
            };
            Ok(telemetry::observe(matched.as_ref(), request, answer).await)
        })
    }
}
