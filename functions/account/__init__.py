"""What users do with their account: usage, stopping an answer, feedback, shared conversations, export, deletion."""
