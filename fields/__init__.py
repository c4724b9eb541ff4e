"""Representations: functions of position, direction and time with learned parameters."""
