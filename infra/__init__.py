"""What surrounds the functions: the local stack, the artifact build, pieces of CloudFormation. Never deployed."""
