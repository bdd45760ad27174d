"""The Hugging Face Hub: finding, downloading and publishing models and patches."""
