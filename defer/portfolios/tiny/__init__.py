"""The portfolio behind the embedded log: tiny language models that the project trains, runs and grades itself."""
