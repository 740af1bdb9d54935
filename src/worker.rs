//! The application tier: workers that run the application.
