//! Guides: how the parts fit together. Each page stands alone, and its programs compile.

#[doc = include_str!("guide/how_to.md")]
pub mod how_to {}

#[doc = include_str!("guide/axum.md")]
pub mod axum {}

#[doc = include_str!("guide/tower_http.md")]
pub mod tower_http {}

#[doc = include_str!("guide/behind_a_proxy.md")]
pub mod behind_a_proxy {}

#[doc = include_str!("guide/limits.md")]
pub mod limits {}

#[doc = include_str!("guide/statuses.md")]
pub mod statuses {}

#[doc = include_str!("guide/cache.md")]
pub mod cache {}

#[doc = include_str!("guide/site.md")]
pub mod site {}

#[doc = include_str!("guide/nginx.md")]
pub mod nginx {}

#[doc = include_str!("guide/gunicorn.md")]
pub mod gunicorn {}

#[doc = include_str!("guide/processes.md")]
pub mod processes {}

#[doc = include_str!("guide/build.md")]
pub mod build {}

#[doc = include_str!("guide/tls.md")]
pub mod tls {}
