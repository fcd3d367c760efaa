"""Builds what Lambda runs: one zip a function, and the CloudFormation template around them."""
